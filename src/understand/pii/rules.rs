//! How each kind of personal data is written, and what tells it from its look-alikes.
//!
//! Checksums: resident identity number GB 11643-1999 (ISO 7064 MOD 11-2), card number ISO/IEC 7812
//! (Luhn). Plates: GA 36. Patterns read the folded text: ASCII digits and marks, lower case.

use std::cell::OnceCell;
use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::PersonalKind;
use crate::base::pattern::pattern;
use crate::understand::normalize::Folded;

/// A pattern (value in the group `v`, or the whole match) and the judge of its matches, who may
/// narrow them.
pub(super) struct Finder {
    pub(super) kind: PersonalKind,
    pattern: Regex,
    judge: fn(&Candidate<'_>) -> Option<Range<usize>>,
}

impl Finder {
    /// Byte spans of the folded text, in order.
    pub(super) fn find(&self, folded: &Folded, source: &str) -> Vec<Range<usize>> {
        let view = folded.text();
        let vehicle = OnceCell::new();
        let mut found = Vec::new();
        let mut from = 0;
        while let Some(captures) = self.pattern.captures_at(view, from) {
            let Some(value) = captures.name("v").or_else(|| captures.get(0)) else { break };
            let candidate = Candidate { folded, source, vehicle: &vehicle, span: value.range() };
            if let Some(span) = (self.judge)(&candidate).filter(|span| !span.is_empty()) {
                from = span.end;
                found.push(span);
            } else {
                // A rejected match may hide a true one that starts inside it.
                let start = captures.get(0).map_or(value.start(), |whole| whole.start());
                from = start + view[start..].chars().next().map_or(1, char::len_utf8);
            }
            if from > view.len() {
                break;
            }
        }
        found
    }
}

struct Candidate<'a> {
    folded: &'a Folded,
    source: &'a str,
    /// Whether the text speaks of vehicles: read once, however many candidates it has.
    vehicle: &'a OnceCell<bool>,
    span: Range<usize>,
}

impl Candidate<'_> {
    fn text(&self) -> &str {
        &self.folded.text()[self.span.clone()]
    }

    fn before(&self) -> &str {
        &self.folded.text()[..self.span.start]
    }

    fn after(&self) -> &str {
        &self.folded.text()[self.span.end..]
    }

    /// As the customer wrote it; letters keep their case.
    fn original(&self) -> &str {
        &self.source[self.folded.source(&self.span)]
    }

    fn digits(&self) -> Vec<u32> {
        self.text().chars().filter_map(|c| c.to_digit(10)).collect()
    }

    fn follows(&self, context: &Regex) -> bool {
        let before = self.before();
        // Contexts are short; looking at the last words keeps the search linear.
        let start = before.char_indices().rev().nth(CONTEXT_CHARS).map_or(0, |(at, _)| at);
        context.is_match(&before[start..])
    }

    fn of_vehicles(&self) -> bool {
        *self.vehicle.get_or_init(|| VEHICLE.is_match(self.folded.text()))
    }

    /// Not a piece of a longer number, word or decimal.
    fn stands_free(&self) -> bool {
        self.starts_free() && self.ends_free()
    }

    fn starts_free(&self) -> bool {
        let mut left = self.before().chars().rev();
        let joined = match left.next() {
            Some('.' | '-') => left.next().is_some_and(|c| c.is_ascii_digit()),
            Some(c) => c.is_ascii_alphanumeric() || c == '_',
            None => false,
        };
        !joined || self.follows(&LABEL)
    }

    fn ends_free(&self) -> bool {
        let mut right = self.after().chars();
        match right.next() {
            Some('.' | '-') => !right.next().is_some_and(|c| c.is_ascii_digit()),
            Some(c) => !c.is_ascii_alphanumeric(),
            None => true,
        }
    }

    fn whole(&self, holds: bool) -> Option<Range<usize>> {
        holds.then(|| self.span.clone())
    }
}

const CONTEXT_CHARS: usize = 16;

// Latin labels that may touch a number without being part of it (`tel138…`).
pattern!(LABEL = r"(?:^|[^a-z])(?:tel|phone|mobile|call|vx|wx|v|wechat|weixin|qq|id|no|card)$");
pattern!(
    CARD = r"(?:卡号|银行卡|信用卡|储蓄卡|借记卡|账号|账户|card)(?:号码?|number|no\.?|是|为|is|[:,#\s])*$"
);
pattern!(IDENTITY = r"(?:身份证|证件|\bid(?: card)?)(?:号码?|number|是|为|is|[:,\s])*$");
pattern!(LANDLINE = r"(?:电话|座机|固话|号码|打|拨|tel)(?:号码?|是|为|[:\s])*$");
pattern!(ORDER_WITHOUT_NO = r"(?:订单|运单|快递|包裹|工单|order)[:#\s]*$");
// The telephone number is also the name on a messenger: “138…vx同号”.
pattern!(SAME_NUMBER = r"^(?:vx|wx|v|qq|wechat|weixin|tel)(?:[^a-z0-9]|$)");
pattern!(
    PHONE_FOR_ORDER =
        r"^(?:tel|phone|mobile|call|vx|wx|v|qq)?(?:86)?1[3-9]\d{9}(?:vx|wx|v|qq|wechat|weixin)?$"
);
pattern!(WECHAT_STATED = r"(?:号|id|是|为|[:=])\s*$");
pattern!(VEHICLE = "车|牌|停");
pattern!(PLACE = "寄|送|地址|住|家|收货|发到|位于");
pattern!(REGION = r"省|市|区|县|自治|[幢栋室]");
pattern!(PROVINCE = PROVINCES);
pattern!(
    LEAD_IN = r"^[^省市区县路街]*(?:寄到|送到|发到|寄往|寄给|改成|改为|改到|换成|换到|地址|住在|住|位于|在|到|是|为|给|[:,\s])"
);
pattern!(
    NOT_A_NAME = r"^(?:方[式面法便向]|高[级德铁]|常[用见]|任[何意务]|曾经|万一|钱[包财]?|关[闭于联]|张数|时|程序|白[天色]|贾|包[裹邮括]|路[上由]|车|金额|黄[色金]|马[上路]|程度|余额|成)"
);
pattern!(
    AFTER_NAME = r"^(?:$|[^\p{Han}]|电话|手机|身份|的|先生|女士|小姐|同学|帮|请|想|要|在|是|和|跟|住|给|不|我|你|这|就|有|能|来|怎|为|麻烦|联系|号码|收|银行|改|了|吗|呢|吧|已|订|下单|申请)"
);

const PROVINCES: &str = "北京|天津|上海|重庆|河北|河南|云南|辽宁|黑龙江|湖南|安徽|山东|新疆|江苏|浙江|江西|湖北|广西|甘肃|山西|内蒙古|陕西|吉林|福建|贵州|广东|青海|西藏|四川|宁夏|海南|台湾|香港|澳门";

const SURNAMES: &str = "欧阳|上官|司马|诸葛|司徒|皇甫|尉迟|公孙|慕容|令狐|夏侯|端木|南宫|[王李张刘陈杨黄赵吴周徐孙马朱胡郭何林高罗郑梁谢宋唐许韩冯邓曹彭曾肖萧田董潘袁蔡蒋余于杜叶程魏苏吕丁任卢姚沈钟姜崔谭陆范汪廖石金韦贾夏付傅方邹熊白孟秦邱侯江尹薛闫段雷龙黎史陶贺毛郝顾龚邵万覃武钱戴严莫孔汤牛樊葛邢倪翁殷霍纪柯蓝齐庞尚庄梅温芦柴聂焦鲁]";

const CHINESE_DIGITS: &str = "零〇一二三四五六七八九幺两壹贰叁肆伍陆柒捌玖";

/// In order of strength.
pub(super) static FINDERS: LazyLock<Vec<Finder>> = LazyLock::new(|| {
    use PersonalKind::*;
    let finder = |kind, pattern: &str, judge| Finder {
        kind,
        pattern: Regex::new(pattern).expect("a constant expression"),
        judge,
    };
    let digits = CHINESE_DIGITS;
    vec![
        finder(
            Email,
            r"[a-z0-9][a-z0-9._%+-]{0,63}@[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63}){0,4}\.[a-z]{2,10}",
            |c| c.whole(!c.after().starts_with(|c: char| c.is_ascii_alphanumeric())),
        ),
        finder(
            OrderNo,
            r"(?:(?:订单|运单|快递|物流|包裹|流水|交易|商品|产品|优惠券|兑换|工单|受理|退款|售后|取件|提货|批次|发票)(?:编?号码?|单号|代码|码)|单号|编号|验证码|券码|流水|订单|运单|快递|包裹|\bsku|\border(?: (?:no\.?|number|id))?)(?:号|是|为|is|[:#(\s])*(?P<v>[a-z]{0,6}[0-9][0-9a-z-]{3,30})",
            order_no,
        ),
        finder(
            IdCard,
            r"[1-9]\d{5}[ -]?(?:18|19|20)\d{2}[ -]?(?:0[1-9]|1[0-2])[ -]?(?:0[1-9]|[12]\d|3[01])[ -]?\d{3}[\dx]",
            |c| {
                let sound = identity_checksum(c.text()) || c.follows(&IDENTITY);
                c.whole(c.stands_free() && is_province_code(&c.digits()) && sound)
            },
        ),
        finder(IdCard, r"[1-9]\d{7}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}", |c| {
            c.whole(c.stands_free() && is_province_code(&c.digits()))
        }),
        finder(
            BankCard,
            r"\d{4}[ -]?\d{4}[ -]?\d{4}[ -]?\d{1,4}(?:[ -]?\d{1,3})?|3[47]\d\d[ -]\d{6}[ -]\d{5}",
            bank_card,
        ),
        finder(
            Phone,
            // In groups of 3-4-4, 4-3-4 or 3-3-5, or digit by digit.
            r"(?:(?:\+|00)?86[ -]?)?1(?:[3-9]\d(?:[ ./·–—_-]{0,2}\d{4}[ ./·–—_-]{0,2}\d{4}|\d[ .-]\d{3}[ .-]\d{4}|[ ·-]\d{3}[ ·-]\d{5})|[ .·-][3-9](?:[ .·-]\d){9})",
            |c| c.whole(c.starts_free() && (c.ends_free() || SAME_NUMBER.is_match(c.after()))),
        ),
        finder(
            Phone,
            &format!(
                "[一幺壹][三四五六七八九叁肆伍陆柒捌玖][{digits}](?:[ -]?[{digits}]{{4}}){{2}}"
            ),
            |c| {
                let numeral = |c: char| CHINESE_DIGITS.contains(c);
                c.whole(!c.before().ends_with(numeral) && !c.after().starts_with(numeral))
            },
        ),
        finder(Phone, r"\(?0(?:10|2\d|[3-9]\d{2})\)?[ -]?\d{3,4}[ -]?\d{4}", |c| {
            let separated = c.text().contains(['-', ' ', ')']);
            c.whole(c.stands_free() && (separated || c.follows(&LANDLINE)))
        }),
        finder(
            WechatId,
            r"(?:微信|薇信|威信|\bvx|v信|\bwx|wechat|weixin|加我?v)(?:号|id|是|为|账号|搜索?|[:= ])*(?P<v>[a-z][a-z0-9_-]{5,19})",
            wechat_id,
        ),
        finder(WechatId, "wxid_[a-z0-9]{6,20}", |c| c.whole(c.stands_free())),
        finder(Qq, r"(?:qq|扣扣)(?:号码?|是|为|[:= ])*(?P<v>[1-9]\d{4,10})", |c| {
            c.whole(!c.after().starts_with(|c: char| c.is_ascii_alphanumeric()))
        }),
        finder(
            Plate,
            "[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼][a-hj-np-z][ ·•.-]?[a-hj-np-z0-9]{4,5}[a-hj-np-z0-9挂学警港澳领]",
            plate,
        ),
        finder(Address, &address_pattern(), address),
        finder(
            Name,
            &format!(
                r"(?:我叫|名字(?:是|叫|为|:)|姓名|联系人|收件人|收货人|寄件人|户名|持卡人|开户人|签收人|投保人|乘机人|入住人|预订人)(?:是|叫|为|[: ])*(?P<v>(?:{SURNAMES})\p{{Han}}{{1,2}})"
            ),
            chinese_name,
        ),
        finder(Name, r"\bmy name is (?P<v>[a-z]+(?: [a-z]+){0,2})", latin_name),
    ]
});

fn order_no(c: &Candidate<'_>) -> Option<Range<usize>> {
    let continued = c.after().starts_with(|c: char| c.is_ascii_alphanumeric());
    let plain = c.text().replace('-', "");
    // “查下订单 138…” gives a phone to look the order up by; so may a card or an identity number.
    let phone = PHONE_FOR_ORDER.is_match(&plain);
    let digits = c.digits();
    let identity = is_province_code(&digits) && identity_checksum(&plain);
    let bare = plain.len() == digits.len() && (16..=19).contains(&digits.len());
    let card = bare && digits[0] > 1 && luhn(&digits) && c.follows(&ORDER_WITHOUT_NO);
    c.whole(!continued && !phone && !identity && !card)
}

fn bank_card(c: &Candidate<'_>) -> Option<Range<usize>> {
    let digits = c.digits();
    let named = digits.len() >= 15 && c.follows(&CARD);
    let issued = digits.first().is_some_and(|first| *first > 1) && luhn(&digits);
    c.whole(c.stands_free() && (13..=19).contains(&digits.len()) && (issued || named))
}

fn wechat_id(c: &Candidate<'_>) -> Option<Range<usize>> {
    let continued = c.after().starts_with(|c: char| c.is_ascii_alphanumeric() || c == '@');
    // A plain word after 微信 is more likely a product than a name.
    let telling = c.text().contains(|c: char| !c.is_ascii_lowercase());
    c.whole(!continued && (telling || c.follows(&WECHAT_STATED)))
}

fn plate(c: &Candidate<'_>) -> Option<Range<usize>> {
    let continued = c.after().starts_with(|c: char| c.is_ascii_alphanumeric());
    // 新 is a province and an adjective: “新Mate60”.
    let written_so =
        !c.original().contains(|c: char| c.is_ascii_lowercase()) && !c.text().starts_with('新');
    c.whole(!continued && (written_so || c.of_vehicles()))
}

/// Every part is bounded: a match that is rejected is looked into from its next character on.
fn address_pattern() -> String {
    let road = "路|大街|街|大道|巷|弄|胡同|里|村|小区|花园|家园|苑|公寓|大厦|广场|园|庄|府|湾";
    let unit = "号楼|号院|号|弄|幢|栋|座|楼|单元|室|层|房|户|组";
    // “一房”, “三户” and “两组” count; with figures they number.
    let spelt = "号楼|号院|号|弄|幢|栋|座|楼|单元|室";
    format!(
        r"(?:(?:{PROVINCES})(?:省|市|壮族自治区|回族自治区|维吾尔自治区|自治区)?)?(?:\p{{Han}}{{2,6}}?(?:市|自治州|州|地区|盟))?(?:\p{{Han}}{{1,6}}?(?:区|县|旗|市))?(?:\p{{Han}}{{1,6}}?(?:街道|镇|乡|开发区))?(?:\p{{Han}}{{1,10}}?(?:{road})){{1,6}}(?:\p{{Han}}{{0,6}}?(?:(?:\d{{1,5}}(?:-\d{{1,4}})*|[a-z])(?:{unit})|[一二三四五六七八九十]{{1,3}}(?:{spelt}))){{1,8}}(?:\d{{2,4}}\b)?"
    )
}

/// The pattern may swallow the words before the place; the place starts after them.
fn address(c: &Candidate<'_>) -> Option<Range<usize>> {
    let text = c.text();
    let lead = match PROVINCE.find(text) {
        Some(province) => province.start(),
        None => LEAD_IN.find(text).map_or(0, |lead| lead.end()),
    };
    let personal =
        REGION.is_match(&text[lead..]) || PLACE.is_match(&text[..lead]) || c.follows(&PLACE);
    personal.then(|| c.span.start + lead..c.span.end)
}

/// Two characters or three: as many as stand before a word that goes on.
fn chinese_name(c: &Candidate<'_>) -> Option<Range<usize>> {
    if NOT_A_NAME.is_match(c.text()) {
        return None;
    }
    let shorter = c.text().char_indices().nth(2).map_or(c.span.end, |(at, _)| c.span.start + at);
    let compound = SURNAMES.split('|').any(|s| s.chars().count() == 2 && c.text().starts_with(s));
    let ends_early = !compound && AFTER_NAME.is_match(&c.folded.text()[shorter..]);
    Some(c.span.start..if ends_early { shorter } else { c.span.end })
}

/// The leading words that are capitalised.
fn latin_name(c: &Candidate<'_>) -> Option<Range<usize>> {
    let capitalised = c
        .original()
        .split(' ')
        .take_while(|word| word.starts_with(char::is_uppercase))
        .map(|word| word.len() + 1)
        .sum::<usize>();
    let end = c.span.start + capitalised.saturating_sub(1);
    (end <= c.span.end).then_some(c.span.start..end)
}

fn is_province_code(digits: &[u32]) -> bool {
    matches!(
        digits,
        [1, 1..=5, ..]
            | [2, 1..=3, ..]
            | [3, 1..=7, ..]
            | [4, 1..=6, ..]
            | [5, 0..=4, ..]
            | [6, 1..=5, ..]
            | [7, 1, ..]
            | [8, 1..=2, ..]
    )
}

fn identity_checksum(text: &str) -> bool {
    const WEIGHTS: [u32; 17] = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
    const CHECK: [char; 11] = ['1', '0', 'x', '9', '8', '7', '6', '5', '4', '3', '2'];
    let symbols: Vec<char> = text.chars().filter(char::is_ascii_alphanumeric).collect();
    let sum: u32 =
        symbols.iter().zip(WEIGHTS).map(|(c, weight)| c.to_digit(10).unwrap_or(0) * weight).sum();
    symbols.len() == 18 && symbols.last() == CHECK.get(sum as usize % 11)
}

fn luhn(digits: &[u32]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, d)| if i % 2 == 0 { *d } else { d * 2 / 10 + d * 2 % 10 })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_checksums() {
        assert!(identity_checksum("11010519491231002x"));
        assert!(!identity_checksum("110105194912310021"));
        assert!(luhn(&[7, 9, 9, 2, 7, 3, 9, 8, 7, 1, 3]));
        assert!(!luhn(&[7, 9, 9, 2, 7, 3, 9, 8, 7, 1, 0]));
    }
}
