//! Personal data in a message: where it stands, what kind it is, and the text without it.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::domain::knowledge::words;
use crate::understand::normalize::Folded;

mod rules;

words!(
    PersonalKind {
        IdCard = "id_card",
        BankCard = "bank_card",
        Phone = "phone",
        Email = "email",
        WechatId = "wechat_id",
        Qq = "qq",
        Plate = "plate",
        Address = "address",
        Name = "name",
        /// An order, parcel or voucher number: found so that it is not taken for a card or a phone.
        /// It names a thing, not a person, and stays in the text.
        OrderNo = "order_no",
    }
);

impl PersonalKind {
    /// What stands in the text instead; `None` when the value may stay.
    pub fn placeholder(self) -> Option<&'static str> {
        match self {
            Self::IdCard => Some("⟨身份证号⟩"),
            Self::BankCard => Some("⟨银行卡号⟩"),
            Self::Phone => Some("⟨手机号⟩"),
            Self::Email => Some("⟨邮箱⟩"),
            Self::WechatId => Some("⟨微信号⟩"),
            Self::Qq => Some("⟨QQ号⟩"),
            Self::Plate => Some("⟨车牌号⟩"),
            Self::Address => Some("⟨地址⟩"),
            Self::Name => Some("⟨姓名⟩"),
            Self::OrderNo => None,
        }
    }
}

/// One find; offsets count characters of the text as it was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonalData {
    pub kind: PersonalKind,
    pub start: usize,
    pub end: usize,
    pub value: String,
}

/// A text that may be stored, embedded and logged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Masked {
    pub text: String,
    /// What was masked, one per span, in order.
    pub kinds: Vec<PersonalKind>,
}

/// All finds, in order, none overlapping.
pub fn find(text: &str) -> Vec<PersonalData> {
    let mut chars = 0;
    let mut bytes = 0;
    let mut count_to = |byte: usize| {
        chars += text[bytes..byte].chars().count();
        bytes = byte;
        chars
    };
    spans(text)
        .into_iter()
        .map(|(kind, span)| PersonalData {
            kind,
            start: count_to(span.start),
            end: count_to(span.end),
            value: text[span].to_owned(),
        })
        .collect()
}

/// Replaces every find that has a placeholder by it.
pub fn mask(text: &str) -> Masked {
    let mut masked = Masked::default();
    let mut done = 0;
    for (kind, span) in spans(text) {
        if let Some(placeholder) = kind.placeholder() {
            masked.text.push_str(&text[done..span.start]);
            masked.text.push_str(placeholder);
            masked.kinds.push(kind);
            done = span.end;
        }
    }
    masked.text.push_str(&text[done..]);
    masked
}

/// What [`mask`] takes out, in order: with it [`restore`] puts the text back.
pub fn taken(text: &str) -> Vec<PersonalData> {
    find(text).into_iter().filter(|found| found.kind.placeholder().is_some()).collect()
}

/// Undoes [`mask`] for the first finds of a text, or all of them. Where they stand says which
/// placeholder is whose: the customer may have written one too. `None`: they are of another text.
pub fn restore(masked: &str, taken: &[PersonalData]) -> Option<String> {
    let (mut text, mut rest, mut at) = (String::new(), masked, 0);
    for found in taken {
        let between = found.start.checked_sub(at)?;
        let mut ends = rest.char_indices().map(|(byte, _)| byte).chain([rest.len()]);
        let (kept, after) = rest.split_at(ends.nth(between)?);
        text.push_str(kept);
        text.push_str(&found.value);
        rest = after.strip_prefix(found.kind.placeholder()?)?;
        at = found.end;
    }
    text.push_str(rest);
    Some(text)
}

/// Byte spans of the source. Earlier finders win where two overlap: a checksum or a named
/// context is stronger than a bare run of digits.
fn spans(text: &str) -> Vec<(PersonalKind, Range<usize>)> {
    let folded = Folded::new(text);
    let mut taken = vec![false; folded.text().len()];
    let mut found = Vec::new();
    for finder in rules::FINDERS.iter() {
        for span in finder.find(&folded, text) {
            if !taken[span.clone()].contains(&true) {
                taken[span.clone()].fill(true);
                found.push((finder.kind, folded.source(&span)));
            }
        }
    }
    found.sort_by_key(|(_, span)| span.start);
    // Two folded characters may stem from one source character: never hand out overlaps.
    found.dedup_by(|next, kept| next.1.start < kept.1.end);
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kinds(text: &str) -> Vec<(PersonalKind, String)> {
        find(text).into_iter().map(|found| (found.kind, found.value)).collect()
    }

    /// A pattern that looks at the whole rest from every character would take minutes here.
    #[test]
    fn long_texts_full_of_near_misses_are_read_in_one_go() {
        for piece in [
            "路",
            "街道",
            "号楼",
            "北京市",
            "1",
            "11010519491231",
            "a@",
            "微信",
            "京a12345",
            "快递1",
        ] {
            let text = format!("{}1号", piece.repeat(20_000));
            assert!(find(&text).len() < text.len());
        }
    }

    #[test]
    fn what_was_taken_of_another_text_puts_nothing_back() {
        let taken = taken("我的电话13800138000");
        assert_eq!(restore("电话⟨手机号⟩", &taken), None);
        assert_eq!(restore("我的电话⟨邮箱⟩", &taken), None);
        assert_eq!(restore("", &taken), None);
    }

    #[test]
    fn each_kind_is_found_where_it_stands() {
        use PersonalKind::*;
        for (text, expected) in [
            ("我电话13800138000，帮我查下", vec![(Phone, "13800138000")]),
            ("手机 138-0013-8000", vec![(Phone, "138-0013-8000")]),
            ("请打+86 13800138000", vec![(Phone, "+86 13800138000")]),
            ("号码１３８００１３８０００", vec![(Phone, "１３８００１３８０００")]),
            ("电话是一三八零零一三八零零零", vec![(Phone, "一三八零零一三八零零零")]),
            ("座机0571-88886666", vec![(Phone, "0571-88886666")]),
            ("座机 010 8888 6666", vec![(Phone, "010 8888 6666")]),
            ("我的固话是(021)6888 1234", vec![(Phone, "(021)6888 1234")]),
            ("转给13800138000，13900139000", vec![(Phone, "13800138000"), (Phone, "13900139000")]),
            ("身份证11010519491231002X", vec![(IdCard, "11010519491231002X")]),
            ("110105 19491231 002X", vec![(IdCard, "110105 19491231 002X")]),
            ("证件号码：110105491231002", vec![(IdCard, "110105491231002")]),
            ("退到6222 0200 0000 0000 000", vec![(BankCard, "6222 0200 0000 0000 000")]),
            ("card 4111111111111111", vec![(BankCard, "4111111111111111")]),
            ("发到Li.Na@example.com谢谢", vec![(Email, "Li.Na@example.com")]),
            ("我微信是lily_2020", vec![(WechatId, "lily_2020")]),
            ("vx：abc12345", vec![(WechatId, "abc12345")]),
            ("加QQ 123456789", vec![(Qq, "123456789")]),
            ("车牌浙A12345", vec![(Plate, "浙A12345")]),
            ("粤BD12345没有抬杆", vec![(Plate, "粤BD12345")]),
            (
                "寄到浙江省杭州市西湖区文三路36号2幢1单元301室谢谢",
                vec![(Address, "浙江省杭州市西湖区文三路36号2幢1单元301室")],
            ),
            ("我家住在西湖区文三路36号", vec![(Address, "西湖区文三路36号")]),
            ("我叫张三，想退货", vec![(Name, "张三")]),
            ("联系人：李小四电话多少", vec![(Name, "李小四")]),
            ("我叫欧阳修，你好", vec![(Name, "欧阳修")]),
            ("Hi, my name is John Smith and I need help", vec![(Name, "John Smith")]),
            ("快递138-0013-8000", vec![(Phone, "138-0013-8000")]),
            ("快递13800138000-张三", vec![(Phone, "13800138000")]),
            ("快递 tel13800138000", vec![(Phone, "13800138000")]),
            ("订单号13800138000", vec![(Phone, "13800138000")]),
            ("包裹11010519491231002X", vec![(IdCard, "11010519491231002X")]),
            ("order 4111111111111111", vec![(BankCard, "4111111111111111")]),
            ("订单号4111111111111111", vec![(OrderNo, "4111111111111111")]),
            ("13800138000wx", vec![(Phone, "13800138000")]),
            ("电话13800138000VX同号", vec![(Phone, "13800138000")]),
            ("V13800138000", vec![(Phone, "13800138000")]),
            ("打138.0013.8000", vec![(Phone, "138.0013.8000")]),
            ("打138/0013/8000", vec![(Phone, "138/0013/8000")]),
            ("打138 001 38000", vec![(Phone, "138 001 38000")]),
            ("打1 3 8 0 0 1 3 8 0 0 0", vec![(Phone, "1 3 8 0 0 1 3 8 0 0 0")]),
            ("订单号 1380013800012", vec![(OrderNo, "1380013800012")]),
        ] {
            let expected: Vec<_> = expected.into_iter().map(|(k, v)| (k, v.to_owned())).collect();
            assert_eq!(kinds(text), expected, "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_it_is_left() {
        for text in [
            "打了400-800-8820没人接",
            "客服热线是12315吗",
            "一共75525.59元",
            "活动时间2024-06-13",
            "型号RTX4090支持吗",
            "快递SF13800138000123",
            "快递SF13800138000",
            "13800138000vxa12",
            "型号13800138000b",
            "版本1.3.8.0.0",
            "110105194912310021",
            "4111111111111112",
            "新mate60什么时候发货",
            "微信支付怎么用",
            "微信wallet怎么用",
            "姓名怎么修改",
            "联系人方式怎么改",
            "我叫外卖了",
            "广东省有门店吗",
            "地铁10号线怎么走",
            "他家里准备再买一房",
            "开发区里三户一组",
        ] {
            let found: Vec<_> =
                find(text).into_iter().filter(|f| f.kind.placeholder().is_some()).collect();
            assert!(found.is_empty(), "{text}: {found:?}");
        }
    }

    #[test]
    fn offsets_count_characters() {
        let found = find("您好😀，我叫张三，电话13800138000");
        assert_eq!((found[0].start, found[0].end), (6, 8));
        assert_eq!((found[1].start, found[1].end), (11, 22));
    }

    #[test]
    fn masking_keeps_the_rest() {
        let masked = mask("订单号1234567890123，电话13800138000，卡4111111111111111");
        assert_eq!(masked.text, "订单号1234567890123，电话⟨手机号⟩，卡⟨银行卡号⟩");
        assert_eq!(masked.kinds, [PersonalKind::Phone, PersonalKind::BankCard]);
    }

    #[test]
    fn a_mistyped_number_is_masked_where_its_name_stands() {
        assert_eq!(mask("身份证号110105194912310021").text, "身份证号⟨身份证号⟩");
        assert_eq!(mask("银行卡号 4111111111111112").text, "银行卡号 ⟨银行卡号⟩");
    }

    #[test]
    fn a_zero_width_character_hides_nothing() {
        assert_eq!(mask("打138\u{200b}00138000").text, "打⟨手机号⟩");
    }

    proptest! {
        #[test]
        fn finds_are_ordered_disjoint_and_quoted(text in "\\PC{0,40}|[0-9 +x一三五零-]{0,60}|[\\s\\S]{0,40}") {
            let chars: Vec<char> = text.chars().collect();
            let mut end = 0;
            for found in find(&text) {
                prop_assert!(end <= found.start && found.start < found.end);
                end = found.end;
                let quoted: String = chars[found.start..found.end].iter().collect();
                prop_assert_eq!(quoted, found.value);
            }
        }

        #[test]
        fn what_was_taken_puts_the_text_back(
            text in "\\PC{0,40}|[0-9 +x一三五零-]{0,60}|([a-z，。]{0,4}|⟨手机号⟩|电话13800138000|我叫张三){0,8}",
            first in any::<prop::sample::Index>(),
        ) {
            let (masked, taken) = (mask(&text), taken(&text));
            prop_assert_eq!(restore(&masked.text, &taken), Some(text.clone()));
            let kinds: Vec<_> = taken.iter().map(|found| found.kind).collect();
            prop_assert_eq!(kinds, masked.kinds);
            let some = &taken[..first.index(taken.len() + 1)];
            let partly = restore(&masked.text, some).unwrap();
            let end = some.last().map_or(0, |found| found.end);
            let chars = |text: &str| text.chars().take(end).collect::<String>();
            prop_assert_eq!(chars(&partly), chars(&text));
        }

        #[test]
        fn a_masked_phone_is_gone(tail in "[3-9][0-9]{9}", before in "[一-龥，]{0,6}", after in "[一-龥，]{0,6}") {
            let phone = format!("1{tail}");
            let text = mask(&format!("{before}{phone}{after}")).text;
            prop_assert!(!text.contains(&phone));
        }
    }
}
