//! What is wrong with a reply, told from the reply, the question and the evidence alone.
//!
//! A measure, so it shares nothing with what it measures: neither the composer's units nor the
//! gate's claims. Texts are cut at every mark; a piece between two marks is the smallest thing that
//! may be taken over, and it is taken over as it stands or it is invented.

use std::collections::HashSet;

use unicode_normalization::UnicodeNormalization;

use crate::base::pattern::pattern;

/// Share of the reply's pairs of characters beyond which it says nothing but the question.
const ECHO: f64 = 0.8;
/// Shortest question that a reply is said to repeat, characters.
const ECHO_CHARS: usize = 5;
/// Pairs of Han characters that two sentences share when they speak of one matter.
const SAME_MATTER: usize = 2;

// What limits the clause beside it: condition, exception, negation, amount.
pattern!(
    LIMIT = r"(?i)如|若|倘|一旦|只要|只有|除|仅|只限|限|但|不过|否则|须|需|必须|务必|前提|不|未|无|没|禁|超过|至少|至多|最多|最少|最高|最低|以内|以上|以下|之内|(?:时|后|前|的话|情况下)$|\d|[一二三四五六七八九十百千万两半]+(?:个|天|日|元|块|次|笔|月|年|小时|分钟|倍|成|折|%)|\b(?:if|unless|except|only|but|not|no|never|must|until|within|up to|at (?:most|least)|provided|when)\b|n't\b"
);
// What takes something back from the sentence before it.
pattern!(
    TAKES_BACK = r"(?i)^(?:但|不过|然而|可是|除|仅|只|否则|不然|其中|逾期|超过|超出|(?:请)?注意|前提|需注意|(?:如|若|倘)[^。]{0,40}(?:不|无法|除外|失效|取消|拒)|unless|except|however|but|otherwise|only|note that)"
);
// The same, wherever in the sentence it stands.
pattern!(
    TAKES_OUT = r"(?i)除外|例外|不在此[列限]|不参[与加]|不适用|不享受|不包[括含]|\b(?:excluded|(?:not|n't) (?:apply|included|eligible))\b"
);
// A sentence that refuses something altogether.
pattern!(
    REFUSES = r"(?i)不能|不可(?:以)?|无法|不支持|不予|不得|不适用|不受理|不提供|除外|\b(?:cannot|can't|not (?:possible|available|allowed|eligible)|no longer)\b"
);

/// Compatibility forms folded, lower case, letters and digits only.
fn bare(text: &str) -> String {
    text.nfkc().flat_map(char::to_lowercase).filter(|c| c.is_alphanumeric()).collect()
}

/// The text between marks, bare; marks inside numbers, times and addresses end nothing.
fn pieces(text: &str) -> Vec<String> {
    cut(text, |c| "，。；！？：,;!?:\n.".contains(c))
}

fn sentences(text: &str) -> Vec<String> {
    cut_raw(text, |c| "。；！？;!?\n.".contains(c))
}

fn cut(text: &str, mark: impl Fn(char) -> bool) -> Vec<String> {
    cut_raw(text, mark).iter().map(|piece| bare(piece)).filter(|p| !p.is_empty()).collect()
}

fn cut_raw(text: &str, mark: impl Fn(char) -> bool) -> Vec<String> {
    let folded: Vec<char> = text.chars().collect();
    let mut pieces = vec![String::new()];
    for (at, &c) in folded.iter().enumerate() {
        let beside = |c: Option<&char>| c.is_some_and(char::is_ascii_alphanumeric);
        let inside = c.is_ascii()
            && c != '\n'
            && at > 0
            && beside(folded.get(at - 1))
            && beside(folded.get(at + 1));
        if mark(c) && !inside {
            pieces.push(String::new());
        } else if let Some(piece) = pieces.last_mut() {
            piece.push(c);
        }
    }
    pieces.retain(|piece| piece.chars().any(char::is_alphanumeric));
    pieces
}

/// Pieces of the reply that stand in none of the texts it may be taken from.
pub fn invented<'a>(reply: &str, sources: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let known: HashSet<String> = sources.into_iter().flat_map(pieces).collect();
    pieces(reply).into_iter().filter(|piece| !known.contains(piece)).collect()
}

/// Pieces that two texts have in common.
pub fn shared(one: &str, other: &str) -> Vec<String> {
    let known: HashSet<String> = pieces(other).into_iter().collect();
    pieces(one).into_iter().filter(|piece| known.contains(piece)).collect()
}

/// Clauses and sentences of the answer that limit what the reply took from it, and are not in it.
pub fn lost(reply: &str, answer: &str) -> Vec<String> {
    let said: HashSet<String> = pieces(reply).into_iter().collect();
    let mut lost = Vec::new();
    let mut before_is_said = false;
    let sentences = sentences(answer);
    let taken: Vec<&String> =
        sentences.iter().filter(|s| pieces(s).iter().any(|p| said.contains(p))).collect();
    for sentence in &sentences {
        let (kept, left): (Vec<_>, Vec<_>) =
            pieces(sentence).into_iter().partition(|piece| said.contains(piece));
        if kept.is_empty() {
            let takes_back = before_is_said
                && (TAKES_BACK.is_match(sentence.trim_start()) || TAKES_OUT.is_match(sentence));
            let refuses = REFUSES.is_match(sentence)
                && taken.iter().any(|t| shared_pairs(t, sentence) >= SAME_MATTER);
            if takes_back || refuses {
                lost.push(sentence.trim().to_owned());
            }
        } else {
            lost.extend(left.into_iter().filter(|piece| LIMIT.is_match(piece)));
        }
        before_is_said = !kept.is_empty();
    }
    lost
}

/// Whether the reply gives the question back instead of an answer.
pub fn echoes(reply: &str, question: &str) -> bool {
    let (reply_pairs, question_pairs) = (pairs(reply), pairs(question));
    if reply_pairs.is_empty() {
        return false;
    }
    let shared = reply_pairs.intersection(&question_pairs).count();
    let whole = bare(question);
    let repeats = whole.chars().count() >= ECHO_CHARS && bare(reply).contains(&whole);
    repeats || shared as f64 / reply_pairs.len() as f64 >= ECHO
}

fn pairs(text: &str) -> HashSet<(char, char)> {
    let letters: Vec<char> = bare(text).chars().collect();
    letters.windows(2).map(|w| (w[0], w[1])).collect()
}

fn shared_pairs(a: &str, b: &str) -> usize {
    pairs(a).intersection(&pairs(b)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "您好，未拆封的商品签收后7天内可以退货，运费由您承担。但定制商品除外。\
        退款1,000元以上的，需人工审核；发票在订单页开具。";

    #[test]
    fn a_piece_is_taken_over_as_it_stands() {
        let found = |reply: &str| invented(reply, [ANSWER]);
        assert!(found(ANSWER).is_empty());
        assert!(found("未拆封的商品签收后７天内可以退货。").is_empty());
        assert_eq!(found("签收后7天内可以退货。"), ["签收后7天内可以退货"]);
        assert_eq!(found("退款000元以上的。"), ["退款000元以上的"]);
        assert_eq!(found("发票在订单页开具，包您满意！"), ["包您满意"]);
    }

    #[test]
    fn what_limits_must_come_along() {
        let found = |reply: &str| lost(reply, ANSWER).len();
        assert_eq!(found(ANSWER), 0);
        assert_eq!(found("发票在订单页开具。"), 0);
        // The exception behind it …
        assert_eq!(found("未拆封的商品签收后7天内可以退货，运费由您承担。"), 1);
        // … and a clause of the same sentence.
        assert_eq!(found("退款1,000元以上的。"), 1);
        assert_eq!(
            lost("可以取消借款。", "可以取消借款。有疑问请联系客服。已放款的借款不能取消。"),
            ["已放款的借款不能取消"]
        );
        assert_eq!(
            lost("全场包邮。", "全场包邮。新疆、西藏除外。地址在订单页。"),
            ["新疆、西藏除外"]
        );
    }

    #[test]
    fn the_question_is_no_answer() {
        assert!(echoes("怎么退货？", "怎么退货"));
        assert!(echoes("请问怎么退货呢？在订单页提交。", "怎么退货呢"));
        assert!(!echoes("在订单页提交退货申请。", "怎么退货"));
        assert!(!echoes("", "怎么退货"));
    }

    proptest::proptest! {
        #[test]
        fn a_whole_answer_has_no_fault(answer in "[退款。，；：！？.!?;, \n1234、但如不]{0,60}") {
            proptest::prop_assert!(invented(&answer, [answer.as_str()]).is_empty());
            proptest::prop_assert!(lost(&answer, &answer).is_empty());
        }
    }
}
