//! Answers cut into units that can be said alone: a clause together with whatever limits it.
//!
//! A cut that is missing costs some brevity; a cut too many lets a condition get lost. So text is
//! cut at sentence ends, after courtesies and before clauses that open a matter of their own, and
//! then everything that leans on its neighbour (condition, exception, negation, amount, list item,
//! pronoun) is tied to it. What refuses or limits a matter is tied to where the matter is spoken of.

use std::collections::HashSet;
use std::ops::Range;

use crate::base::pattern::pattern;
use crate::base::text::is_han;

/// A piece of an answer that may be chosen or left as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    pub text: String,
    /// Bytes of the answer.
    pub range: Range<usize>,
}

/// The units in order; their texts joined are the answer.
pub fn units(answer: &str) -> Vec<Unit> {
    let segments = segments(answer);
    let mut ranges: Vec<Range<usize>> = Vec::with_capacity(segments.len());
    let mut list = List::Outside;
    let mut previous = "";
    for segment in segments {
        let text = &answer[segment.clone()];
        let tied = text.trim().is_empty() || list.continues(text) || leans(previous, text);
        list = list.after(text, tied);
        let from = if tied { ranges.len().checked_sub(1) } else { limited(answer, &ranges, text) };
        match from {
            Some(from) => {
                ranges.truncate(from + 1);
                ranges[from].end = segment.end;
            }
            None => ranges.push(segment),
        }
        previous = text;
    }
    ranges.into_iter().map(|range| Unit { text: answer[range.clone()].to_owned(), range }).collect()
}

// Where marks are part of a word: links, mail addresses, numbers, phone numbers, versions, times.
pattern!(
    ATOM = r"(?i)\b(?:https?://|www\.)[!-~]+|[a-z0-9._%+-]+@[a-z0-9.-]+|\b[a-z0-9-]+(?:\.[a-z0-9-]+)+(?:/[!-~]*)?|\d+(?:[.,:：-]\d+)+"
);
// A list item's own mark. “1.5” is none: the dot must end the number.
pattern!(
    ITEM = r"^\s*(?:\d{1,2}(?:[.．、)）]|:\s)(?:\D|$)|[（(]\d{1,2}[）)]|[①-⑳]|第?[一二三四五六七八九十]{1,3}(?:[、.．]|步|是)|[（(][一二三四五六七八九十]{1,3}[）)]|[-•·*●]\s*|(?i:step) ?\d|步骤[\d一二三四五六七八九十])"
);
pattern!(
    SEQUEL = r"^\s*(?:然后|接着|再(?:次|点|按|选|进)|之后|随后|其次|最后|第[二三四五六七八九十]|(?i:then|next|finally|after (?:that|this)|afterwards|second(?:ly)?|third(?:ly)?|lastly)\b)"
);
// A lead-in promises what follows.
pattern!(LEAD_IN = r"(?:[:：]|如下|以下(?:几种|两种|三种|情况|方式|步骤)?)[。.]?\s*$");
pattern!(LIST_LEAD_IN = r"[:：][^；;]*[；;]\s*$");
pattern!(
    LIMITS = r"^\s*(?:但|不过|然而|可是|只是|只有|只限|只能|只支持|仅|否则|不然|除|前提|需|须|必须|务必|限|注意|请注意|请您?(?:务必|确保|先)|注[:：]|备注|例外|特殊|特别|不|无法|无需|无须|未|没有|逾期|超|最[高低多少大小长短晚迟早快]|至[少多]|上限|下限|每[笔次人日天月年户单张]|单[笔次日]|因此|所以|故|从而|即[^将可]|也就是|包括|包含|例如|比如|如[:：]|节假日|周末|法定|遇|具体|实际|以[^。]{1,16}为准|仍|一般|通常|预计|大约|约|[（(¥￥$]|\d)"
);
pattern!(
    POINTS_BACK = r"^\s*(?:其中|其[余他]|该|此[^外]|上述|以上|这|那|它|他们?|她们?|届时|期间|同样|同理|到时|如此|前者|后者|两者|二者|均|都|也|还[^款清]|并|且|而)"
);
pattern!(
    LIMITS_EN = r"(?i)^\s*(?:but|however|unless|except|otherwise|provided|providing|only|if not|note|please note|up to|at (?:most|least)|not?|never|excluding|including|must|subject to|also|although|though|because|so|therefore|thus|hence|it|its|this|that|these|those|they|them|their|such|he|she|both|either|neither|for example|e\.g\.|i\.e\.|that is|in (?:this|that|these|those|such)|or|and|nor)\b"
);
pattern!(
    CONDITION = r"(?i)^\s*(?:如|若|倘|假如|一旦|当|对于|凡|[^，,。；]{1,16}(?:情况下|的话|时[，,请])|(?:if|when|where|once|for|after|before|while|in case)\b)"
);
pattern!(
    NEGATION = r"(?i)不|无法|未|没有|除外|禁止|拒|失效|作废|取消|\b(?:not|no|cannot|can't|won't|without|never|refused?|denied|void|lose|except)\b|n't\b"
);
// Refuses something altogether; of what, the sentences before it tell.
pattern!(
    REFUSAL = r"(?i)不能|不可以?|无法|不支持|不予|不得|不适用|不受理|不提供|不在|除外|\b(?:cannot|can't|not (?:possible|available|allowed|eligible)|no longer)\b"
);
// Takes something out of what the sentence before it grants.
pattern!(
    EXCEPTS = r"(?i)除外|例外|不在此[列限]|不参[与加]|不适用|不享受?|不包[括含]|不计入|暂停|另[行算计]|\b(?:excluded?|not (?:included|eligible|apply|applicable)|does not apply|do not apply)\b"
);
pattern!(
    AMOUNT = r"(?i)\d|[一二三四五六七八九十百千万两半]+(?:个|天|日|元|块|次|笔|月|年|小时|分钟|倍|成|折|%)"
);
// What the sentence before it gives for nothing, and what this one takes for it after all.
pattern!(GRANTS = r"(?i)免|包邮|不收|无需支付|全额|无理由|\b(?:free|no (?:fee|charge))\b");
pattern!(
    CHARGES = r"(?i)收取?\S{0,12}[\d一二三四五六七八九十百千万%％]|违约金|手续费|扣除|自付|自理|承担|\b(?:fee|charged?)\b"
);
// “Those that …”: one case of several.
pattern!(CASE = r"^\s*[^，,。；;]{2,24}的[，,]");
pattern!(
    ASSENT = r"(?i)^\s*(?:(?:可以|能|会|支持|有|没有|不|暂|是)[^，,。；;：:]{0,8}|yes|no|sure|of course)[。！!.]\s*$"
);
pattern!(
    COURTESY = r"(?i)^\s*(?:(?:亲爱的)?(?:您好|你好|亲|尊敬的(?:客户|用户|顾客)|客户您好|感谢[^，,。！!]{0,16}|谢谢[^，,。！!]{0,10}|非常抱歉|很抱歉|抱歉|不好意思|hello|hi|hi there|dear customer|thanks?(?: you)?(?: for [a-z ]{1,40})?|sorry(?: about that| for [a-z ]{1,40})?))[，,～~！!]\s*$"
);
pattern!(
    OWN_MATTER = r"^\s*(?:另外|此外|同时|您也可以|也可以|您还可以|还可以|如有(?:疑问|问题|其他)|如需(?:帮助|协助)|欢迎|祝您)"
);
pattern!(
    LIMITED = r"如果|若|倘|除|但|不|无|未|仅|只|需|须|必|限|前提|超|至少|最|以内|之内|[0-9０-９%％]|[一二三四五六七八九十百千万两]+(?:个|天|元|次|笔|日|月|年|小时|分钟|倍|成)"
);
pattern!(
    ABBREVIATION = r"(?i)(?:^|[\s(])(?:mr|mrs|ms|dr|st|no|vs|etc|e\.g|i\.e|approx|inc|ltd|co|u\.s|a\.m|p\.m|[a-z]|\d{1,2})$"
);

/// The nearest earlier unit of whose matter `text` refuses something, or tells a case apart.
fn limited(answer: &str, earlier: &[Range<usize>], text: &str) -> Option<usize> {
    let limits = REFUSAL.is_match(text) || CONDITION.is_match(text) || CASE.is_match(text);
    if !limits || OWN_MATTER.is_match(text) {
        return None;
    }
    let matter = matter(text);
    let shared = |unit: &Range<usize>| {
        let of_unit = self::matter(&answer[unit.clone()]);
        of_unit.intersection(&matter).count() >= SAME_MATTER
    };
    earlier.iter().rposition(shared)
}

/// What a text speaks of: its pairs of Han characters, and its longer words.
fn matter(text: &str) -> HashSet<String> {
    let chars: Vec<char> = text.chars().collect();
    let pairs = chars.windows(2).filter(|pair| pair.iter().all(|c| is_han(*c)));
    let words = text.split(|c: char| !c.is_ascii_alphabetic()).filter(|w| w.len() >= WORD_LETTERS);
    pairs.map(|pair| pair.iter().collect()).chain(words.map(str::to_lowercase)).collect()
}

/// Whether `text` may not be said without what stands before it.
fn leans(previous: &str, text: &str) -> bool {
    if previous.is_empty() || COURTESY.is_match(previous) {
        return false;
    }
    if OWN_MATTER.is_match(text) {
        return false;
    }
    // One sentence still goes on; a bare yes or no says nothing about what.
    if previous.trim_end().ends_with(['；', ';']) || ASSENT.is_match(previous) {
        return true;
    }
    let exception = CONDITION.is_match(text) && NEGATION.is_match(text);
    exception
        || EXCEPTS.is_match(text)
        || GRANTS.is_match(previous) && CHARGES.is_match(text)
        || is_part_of(previous, text)
        || LEAD_IN.is_match(previous)
        || SEQUEL.is_match(text)
        || LIMITS.is_match(text)
        || LIMITS_EN.is_match(text)
        || POINTS_BACK.is_match(text)
}

/// Whether both name an amount of one matter: “整机保修两年。电池保修一年。” The second takes a part out
/// of the first.
fn is_part_of(previous: &str, text: &str) -> bool {
    let amounts = AMOUNT.is_match(previous) && AMOUNT.is_match(text);
    amounts && !matter(previous).is_disjoint(&matter(text))
}

/// So many pairs or words in common make two texts speak of one matter.
const SAME_MATTER: usize = 2;
/// Shorter words are mostly particles.
const WORD_LETTERS: usize = 5;

/// Where the reading stands in an enumeration; its items stay with the words that announce them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    Outside,
    /// Items with marks of their own.
    Marked,
    /// Items divided by semicolons behind a colon.
    Divided,
}

impl List {
    fn continues(self, text: &str) -> bool {
        match self {
            Self::Outside => false,
            Self::Marked => ITEM.is_match(text) || text.starts_with([' ', '\t', '\u{3000}']),
            Self::Divided => true,
        }
    }

    fn after(self, text: &str, tied: bool) -> Self {
        let divided = text.trim_end().ends_with(['；', ';']);
        if ITEM.is_match(text) || self == Self::Marked && tied {
            Self::Marked
        } else if divided && (LIST_LEAD_IN.is_match(text) || self == Self::Divided) {
            Self::Divided
        } else {
            Self::Outside
        }
    }
}

const SENTENCE_ENDS: [char; 7] = ['。', '！', '？', '!', '?', '；', ';'];
const CLOSERS: [char; 11] = ['”', '’', '」', '』', '）', ')', '》', '】', '"', '～', '~'];

/// Sentences; ranges in bytes, in order without gaps.
pub fn sentences(text: &str) -> Vec<Range<usize>> {
    cut(text, |_, _| false)
}

/// Sentences, and clauses that may stand by themselves; ranges in order without gaps.
fn segments(answer: &str) -> Vec<Range<usize>> {
    cut(answer, |start, end| is_clause_end(answer, start, end))
}

/// Cut at sentence ends, and at those commas that `at_comma` finds to end the clause between two
/// places.
fn cut(answer: &str, at_comma: impl Fn(usize, usize) -> bool) -> Vec<Range<usize>> {
    let whole = protected(answer);
    let mut segments = Vec::new();
    let mut start = 0;
    let mut chars = answer.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let mut end = at + c.len_utf8();
        if whole.get(at).copied().unwrap_or(false) {
            continue;
        }
        let ends = match c {
            '\n' => true,
            '.' => is_full_stop(answer, start, at),
            '，' | ',' => at_comma(start, end),
            _ => SENTENCE_ENDS.contains(&c),
        };
        if !ends {
            continue;
        }
        while let Some((_, next)) = chars.next_if(|(at, next)| {
            let inside = whole.get(*at).copied().unwrap_or(false);
            !inside
                && (next.is_whitespace() || SENTENCE_ENDS.contains(next) || CLOSERS.contains(next))
        }) {
            end += next.len_utf8();
        }
        segments.push(start..end);
        start = end;
    }
    if start < answer.len() {
        segments.push(start..answer.len());
    }
    segments
}

/// Bytes at which no cut may be made: inside words with marks and inside brackets.
fn protected(answer: &str) -> Vec<bool> {
    let mut whole = vec![false; answer.len()];
    for atom in ATOM.find_iter(answer) {
        // A sentence may end with a link; its last mark is the sentence's.
        let text = atom.as_str().trim_end_matches(['.', ',', '!', '?', ';', ':', ')']);
        whole[atom.start()..atom.start() + text.len()].fill(true);
    }
    let mut open: Vec<(char, usize)> = Vec::new();
    for (at, c) in answer.char_indices() {
        if let Some(close) = closing(c) {
            open.push((close, at));
        } else if let Some(depth) = open.iter().rposition(|(close, _)| *close == c) {
            let (_, from) = open[depth];
            open.truncate(depth);
            if at - from <= BRACKET_BYTES {
                whole[from..at].fill(true);
            }
        } else if c == '\n' {
            open.clear();
        }
    }
    whole
}

/// A longer stretch between brackets is a paragraph that may be cut.
const BRACKET_BYTES: usize = 400;

fn closing(open: char) -> Option<char> {
    Some(match open {
        '（' => '）',
        '(' => ')',
        '《' => '》',
        '【' => '】',
        '「' => '」',
        '『' => '』',
        '“' => '”',
        '[' => ']',
        _ => return None,
    })
}

/// Longer than any abbreviation with the space before it.
const ABBREVIATION_BYTES: usize = 16;

/// A dot that ends a sentence: not of an abbreviation or a list item, and not inside a word.
fn is_full_stop(answer: &str, start: usize, at: usize) -> bool {
    let next = answer[at + 1..].chars().next();
    // No abbreviation is longer; a long text of short words must not be read again at each dot.
    let near = answer.floor_char_boundary(at.saturating_sub(ABBREVIATION_BYTES)).max(start);
    next.is_none_or(|c| c.is_whitespace() || CLOSERS.contains(&c))
        && !ABBREVIATION.is_match(&answer[near..at])
}

/// After a courtesy, or before a clause of its own when neither side is limited.
fn is_clause_end(answer: &str, start: usize, end: usize) -> bool {
    let (left, right) = (&answer[start..end], &answer[end..]);
    if COURTESY.is_match(left) {
        return true;
    }
    let stop = right.find(['。', '；', '！', '\n']).unwrap_or(right.len());
    OWN_MATTER.is_match(right) && !LIMITED.is_match(left) && !LIMITED.is_match(&right[..stop])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(expected: &[&str]) {
        let answer = expected.concat();
        let found: Vec<String> = units(&answer).into_iter().map(|unit| unit.text).collect();
        assert_eq!(found, expected, "{answer}");
    }

    #[test]
    fn sentences_and_courtesies_stand_alone() {
        check(&["您好，", "感谢您的支持！", "退款申请可在订单页提交。"]);
        check(&["退款会原路退回。", "运费由商家承担。"]);
        check(&["在“我的”页面修改，", "您也可以联系店铺客服。"]);
        check(&["Open the app and tap Orders. ", "Refunds go back to your card."]);
    }

    #[test]
    fn conditions_and_exceptions_stay() {
        check(&["支持7天无理由退货。但生鲜、定制商品除外。", "退货地址在订单页。"]);
        check(&["未发货的订单可以直接取消。如已发货，则不能取消，需要拒收。"]);
        check(&["如果订单已签收，请在7天内申请售后，需保留包装。"]);
        check(&["可以提前还款，不收手续费；仅限等额本息的借款。"]);
        check(&["You can cancel at any time. However, the first month is not refunded."]);
        check(&["Delivery is free. Unless you live on an island. ", "Parcels come by DHL."]);
    }

    #[test]
    fn a_refusal_stays_with_its_matter() {
        check(&["未放款的借款可在记录里取消。已到账的借款不能取消。", "还款日在账单页看。"]);
        check(&["可以申请退货，运费由您承担。退货地址在订单页。定制商品不能申请退货。"]);
        check(&["个人原因退货，运费由您承担；质量问题由我们承担。", "祝您愉快！"]);
        check(&["换货申请在订单页提交。因质量问题申请换货的，运费由我们承担。"]);
        check(&["Return parcels within a week. Opened parcels cannot be sent for return. "]);
    }

    #[test]
    fn what_takes_back_stays_with_what_it_takes_back() {
        check(&["支持7天无理由退货。生鲜商品除外。", "退货地址在订单页。"]);
        check(&["全场满99元包邮。新疆、西藏除外。"]);
        check(&["会员享受9折优惠。特价款不参与。", "卡券在“我的”里看。"]);
        check(&["提前还款免手续费。首月内结清收取3%违约金。"]);
        check(&["整机保修两年。电池保修一年。", "发票在订单页开具。"]);
        check(&["Returns are free. Sale items are excluded. "]);
    }

    #[test]
    fn a_bare_yes_says_what_it_grants() {
        check(&["可以。在“我的”页提交即可。", "地址在订单页。"]);
        check(&["Yes. Tap Orders and choose one. ", "Parcels come by DHL."]);
    }

    #[test]
    fn amounts_and_pronouns_stay() {
        check(&["提现会收取手续费。每笔最低2元，最高25元。"]);
        check(&["退款原路退回。3个工作日内到账，节假日顺延。"]);
        check(&["会员卡可以转赠。其中年卡只能转赠一次。", "转赠记录在“我的”里看。"]);
    }

    #[test]
    fn a_list_keeps_its_lead_in() {
        check(&[
            "有两种情况：未发货的，直接退款；已发货的，请先拒收；其他情况联系客服。",
            "祝您生活愉快！",
        ]);
        check(&[
            "请按以下步骤操作：\n1. 打开App；\n2. 点击“我的”；\n3. 选择“退款”。\n",
            "如有疑问请联系我们。",
        ]);
        check(&["1.打开设置 2.点击账号 3.选择注销。"]);
        check(&["材料如下。身份证、银行卡、申请表。"]);
        check(&["To return an item:\n1. Open Orders.\n2. Tap Return.\n", "Refunds take a while."]);
    }

    #[test]
    fn words_with_marks_are_never_cut() {
        check(&[
            "客服电话400-000-1234，手续费1,000.5元，详见https://a.example.com/x?y=1;z=2。",
            "祝您愉快！",
        ]);
        check(&["Our address is help@a.example.com. ", "Mr. Li answers in approx. 2.5 hours."]);
        check(&["营业时间9:00-18:00（周末休息。节假日另行通知。）。", "地址在订单页。"]);
    }

    #[test]
    fn nothing_in_nothing_out() {
        assert!(units("").is_empty());
    }

    proptest! {
        #[test]
        fn units_give_back_the_answer(answer in "\\PC{0,60}|[退款。，；：！？.!?;, \n1234、（）“”但如不]{0,60}") {
            let units = units(&answer);
            let joined: String = units.iter().map(|unit| unit.text.as_str()).collect();
            prop_assert_eq!(&joined, &answer);
            for unit in units {
                prop_assert!(!unit.text.is_empty());
                prop_assert_eq!(&answer[unit.range], unit.text.as_str());
            }
        }
    }
}
