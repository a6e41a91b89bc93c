//! Messages that say nothing by themselves (“我想问下”, “那个退货”), and what they say together.

use crate::base::pattern::pattern;
use crate::understand::normalize::normalize;
use crate::understand::readability::{Greeting, greeting};
use crate::understand::signals;

/// Longest fragment, characters; who writes more has said something.
const FRAGMENT_CHARS: usize = 40;
/// Longest matter that is named and not yet asked about, characters.
const TOPIC_CHARS: usize = 10;

// What opens a message without being part of the question; read folded, as all patterns here.
pattern!(
    OPENING = concat!(
        r"^(?:(?:",
        r"你们?好|您好|亲|在吗|在么|在不在|喂|哈喽|嗨|早上好|上午好|中午好|下午好|晚上好",
        r"|请问一?下?|打扰一?下?了?|不好意思|麻烦(?:问?一?下|问)?|劳驾",
        r"|(?:我们?)?(?:就|还|再)?(?:想|要|来)(?:请教|咨询|问|了解|确认)(?:一?下|问|一?个|你们?|您)*(?:问题|事情?)?",
        r"|(?:请教|咨询|问)(?:你们?|您)?(?:一?下|一?个)(?:问题|事情?)?",
        r"|(?:事情|情况)?是这样的?|我?有(?:一?个|点|些)(?:问题|疑问|事情?)(?:想|要)?(?:请教|咨询|问)?(?:一?下|你们?|您)*",
        r"|就是说?|那个|这个|嗯+|呃+|额+|对了|话说",
        r"|(?:hi|hello|hey|excuse me|sorry|um+|uh+|well|so|there|quick question",
        r"|i (?:just )?(?:have|had|got) an? (?:quick )?question",
        r"|i(?:'d| would)? (?:just )?(?:want(?:ed)?|like) to (?:ask|know|check)(?: you)?(?: something)?",
        r"|(?:can|could|may) i ask(?: you)?(?: something| a question)?)\b",
        r")[\s,.。!~、…:]*)+",
    )
);
// “那个退货”, “about my order”: the matter is named, the question is still to come.
pattern!(NAMING = r"那个|这个|就是|关于|有关|\b(?:about|regarding)\b");
// “我昨天买的杯子”: a thing, and nothing said of it.
pattern!(THING = r"^我们?[^,。!]{0,6}(?:买|拍|订|定|下单|收到|申请|付|退|换)的[^,。!]{1,6}$");
// Something is said of it, or wanted.
pattern!(
    PREDICATE = r"[了不没要想能可有是坏破太很给请帮别无未]|\b(?:is|are|was|has|have|not|want|need|please)\b|n't\b"
);
// A mark or a word after which more must come, or a condition without its consequence.
pattern!(
    UNFINISHED = r"[,、:]$|(?:但是|可是|不过|因为|所以|如果|要是|假如|而且|然后|还有|并且|或者|以及|关于|的时候|的话)$|\b(?:but|because|if|and|or|when|about|with|the|my|an?)$|^(?:如果|要是|假如|万一|if )[^,。!]{1,16}$"
);
pattern!(
    ASKS = r"[吗呢么嘛谁哪怎咋几啥?]|多[少久长大高重远]|是不是|有没有|能不能|要不要|会不会|可不可以|可否|能否|如何|为何|何时|\b(?:how|what|when|where|why|who|which|can|could|do|does|did|may|will|would|should|is there|are there)\b"
);
pattern!(TAIL = r"[\s,.。~、…:，：]+$");

/// Whether more is plainly to follow: an opening, a greeting, a matter without a question, an
/// unfinished clause. What a person must see at once is none.
pub fn is_fragment(text: &str) -> bool {
    let normal = normalize(text);
    if normal.chars().nth(FRAGMENT_CHARS).is_some() || !normal.chars().any(char::is_alphanumeric) {
        return false;
    }
    let unsaid = match greeting(text) {
        Some(courtesy) => courtesy == Greeting::Hello,
        None => {
            let rest = without_opening(&normal);
            let asks = ASKS.is_match(rest);
            rest.is_empty() || !asks && (UNFINISHED.is_match(&normal) || only_names(&normal, rest))
        }
    };
    unsaid && signals::find(text).hard_reasons().is_empty()
}

/// What the messages say as one: fragments, oldest first, and the message that ended them.
///
/// Openings are left out. A message that a person must see stands as it was written, whatever was
/// begun before it: no clause in front may turn a cry for help into a question about help.
pub fn join(fragments: &[&str], last: &str) -> String {
    if !signals::find(last).hard_reasons().is_empty() {
        return last.to_owned();
    }
    let begun = fragments.iter().map(|fragment| {
        let normal = normalize(fragment);
        TAIL.replace(without_opening(&normal), "").into_owned()
    });
    let mut pieces: Vec<String> = begun.filter(|piece| !piece.is_empty()).collect();
    if pieces.is_empty() || !without_opening(&normalize(last)).is_empty() {
        pieces.push(last.trim().to_owned());
    }
    let mut joined = String::new();
    for piece in pieces {
        if !joined.is_empty() {
            joined.push_str(if joined.is_ascii() && piece.is_ascii() { " " } else { "，" });
        }
        joined.push_str(&piece);
    }
    joined
}

fn without_opening(normal: &str) -> &str {
    OPENING.find(normal).map_or(normal, |opening| &normal[opening.end()..])
}

fn only_names(normal: &str, rest: &str) -> bool {
    let opening = &normal[..normal.len() - rest.len()];
    let named = NAMING.find(rest).filter(|naming| naming.start() == 0);
    let matter = named.map_or(rest, |naming| &rest[naming.end()..]);
    let names = named.is_some() || NAMING.is_match(opening) || THING.is_match(rest);
    let most = if matter.is_ascii() { 3 * TOPIC_CHARS } else { TOPIC_CHARS };
    names && matter.chars().nth(most).is_none() && !PREDICATE.is_match(matter)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FRAGMENTS: &[&str] = &[
        "你好",
        "您好，在吗？",
        "hi",
        "我想问下",
        "我想問一下",
        "你好，想咨询一下",
        "请问一下",
        "问个问题",
        "是这样的",
        "我有个问题想问一下",
        "不好意思",
        "那个",
        "那个……",
        "那个退货",
        "关于退货的问题",
        "我想问下那个会员卡",
        "我昨天买的杯子",
        "如果我退货了",
        "要是尺码小的话",
        "我上周下的单，",
        "东西收到了，但是",
        "I have a question",
        "Hello, I wanted to ask",
        "about my order",
        "I bought a lamp last week and",
        "if I return it",
    ];

    #[test]
    fn what_says_nothing_yet_is_a_fragment() {
        for text in FRAGMENTS {
            assert!(is_fragment(text), "{text}");
        }
    }

    #[test]
    fn a_question_a_statement_and_a_courtesy_are_none() {
        for text in [
            "运费谁出",
            "退款一般几天能到账",
            "我想问下退货运费谁出",
            "那个怎么退",
            "这个能退吗",
            "退货",
            "发票",
            "怎么取消",
            "快递到哪了，",
            "我要退货",
            "那个我不要了",
            "我昨天买的杯子坏了",
            "还有货吗",
            "问题解决了",
            "谢谢",
            "好的",
            "再见",
            "3",
            "？？？",
            "",
            "😀",
            "How do I return it",
            "what is this for",
            "where is my order?",
            "can I pay with card",
            "refund",
            "thanks",
        ] {
            assert!(!is_fragment(text), "{text}");
        }
    }

    #[test]
    fn what_a_person_must_see_is_never_held() {
        for text in ["转人工，", "那个，我要投诉你们，", "我不想活了，", "我被骗了，"]
        {
            assert!(!is_fragment(text), "{text}");
        }
    }

    #[test]
    fn fragments_say_together_what_was_meant() {
        for (fragments, last, expected) in [
            (vec!["你好", "我想问下", "那个退货"], "运费谁出", "退货，运费谁出"),
            (vec!["你好"], "退款一般几天能到账", "退款一般几天能到账"),
            (vec!["如果退货的话，"], "运费谁出？", "如果退货的话，运费谁出？"),
            (vec!["你好"], "在吗", "在吗"),
            (vec!["那个退货"], "你好", "退货"),
            (vec!["我想问下", "那个"], "谢谢", "谢谢"),
            (vec!["hello", "about my order,"], "where is it", "about my order where is it"),
            (vec!["如果"], "我的账号被盗了", "我的账号被盗了"),
        ] {
            assert_eq!(join(&fragments, last), expected);
        }
    }

    proptest! {
        #[test]
        fn hard_signals_of_the_last_message_stay(
            before in proptest::sample::subsequence(FRAGMENTS, 0..6),
            last in prop_oneof![
                Just("转人工"), Just("客服呢"), Just("我要投诉你们"), Just("我不想活了"),
                Just("账号被盗"), Just("I want to speak to a human"),
            ],
        ) {
            let whole = signals::find(&join(&before, last)).hard_reasons();
            prop_assert_eq!(whole, signals::find(last).hard_reasons());
        }

        #[test]
        fn any_texts_can_be_joined(before in proptest::collection::vec("\\PC{0,12}", 0..4), last in "\\PC{0,20}") {
            let before: Vec<&str> = before.iter().map(String::as_str).collect();
            let joined = join(&before, &last);
            prop_assert!(!joined.is_empty() || last.trim().is_empty());
            let held = before.iter().filter(|text| is_fragment(text));
            prop_assert!(held.into_iter().all(|text| signals::find(text).hard_reasons().is_empty()));
        }
    }
}
