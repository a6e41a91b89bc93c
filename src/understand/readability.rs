//! Whether a message is something to answer: told apart from noise, stumps and mere greetings.

use std::sync::LazyLock;

use regex::Regex;

use crate::base::limits;
use crate::base::text::is_han;
use crate::domain::decision::Reason;
use crate::domain::knowledge::words;
use crate::understand::normalize::normalize;

/// Nobody types this much as a question; it is pasted, and its first lines are not its point.
const PASTED_CHARS: usize = 4 * limits::QUESTION_CHARS;
/// Shortest run that can be taken for encoded bytes; a link's token is usually shorter.
const ENCODED_RUN: usize = 64;

words!(
    Readability {
        Empty = "empty",
        EmojiOnly = "emoji_only",
        PunctuationOnly = "punctuation_only",
        /// Control or replacement characters, or a long encoded run.
        Binary = "binary",
        /// A stump such as a lone pronoun with one more character.
        TooShort = "too_short",
        /// Longer than anything that is asked.
        TooLong = "too_long",
        Readable = "readable",
    }
);

impl Readability {
    /// Why a person has to look, or the customer to be asked again; `None` for a readable message.
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::Readable => None,
            Self::TooShort => Some(Reason::TooShort),
            Self::Empty
            | Self::EmojiOnly
            | Self::PunctuationOnly
            | Self::Binary
            | Self::TooLong => Some(Reason::Unreadable),
        }
    }
}

words!(
    /// A message that only keeps the conversation going.
    Greeting {
        Hello = "hello",
        Thanks = "thanks",
        Farewell = "farewell",
        Acknowledgement = "acknowledgement",
    }
);

pub fn readability(text: &str) -> Readability {
    if looks_binary(text) {
        return Readability::Binary;
    }
    let normal = normalize(text);
    if normal.is_empty() {
        return Readability::Empty;
    }
    if !normal.chars().any(char::is_alphanumeric) {
        let emoji = normal.chars().any(is_emoji);
        return if emoji { Readability::EmojiOnly } else { Readability::PunctuationOnly };
    }
    if text.chars().nth(PASTED_CHARS).is_some() {
        return Readability::TooLong;
    }
    if is_stump(&normal) { Readability::TooShort } else { Readability::Readable }
}

fn looks_binary(text: &str) -> bool {
    let total = text.chars().count();
    let strange = text
        .chars()
        .filter(|c| *c == char::REPLACEMENT_CHARACTER || c.is_control() && !c.is_whitespace())
        .count();
    if strange * 10 > total {
        return true;
    }
    let encoded: usize = text
        .split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '_' | '-')))
        .filter(|run| is_encoded(run))
        .map(str::len)
        .sum();
    encoded * 2 > total
}

/// Long, unbroken, and mixed as no word is.
fn is_encoded(run: &str) -> bool {
    let digits = run.bytes().filter(u8::is_ascii_digit).count();
    run.len() >= ENCODED_RUN && digits > 0 && digits < run.len()
}

fn is_emoji(c: char) -> bool {
    matches!(u32::from(c), 0x1F000..=0x1FAFF | 0x2600..=0x27BF | 0x2B00..=0x2BFF | 0x2190..=0x21FF)
}

/// Characters that say nothing by themselves; two of them, or one with one more, make no question.
const EMPTY_HAN: &str =
    "你我他她它您们的了吗呢啊吧是在有不这那个就都还和与也嗯哦呃哈呀嘛么哎喂诶把被给跟对很太";

/// Sounds, not words: they lean on nothing that was said.
const SOUNDS: &str = "嗯哦噢喔呃额哈嘿呵呀嘛么哎唉喂诶欸啊吧呢了的哇咦";

/// True when no Chinese word is said (“啊？”, “k”).
pub fn is_interjection(text: &str) -> bool {
    !normalize(text).chars().any(|c| is_han(c) && !SOUNDS.contains(c))
}

fn is_stump(normal: &str) -> bool {
    let letters: Vec<char> = normal.chars().filter(|c| c.is_alphanumeric()).collect();
    let han = letters.iter().filter(|c| is_han(**c)).count();
    if han == 0 {
        return letters.len() < 3;
    }
    let telling = letters.iter().filter(|c| !EMPTY_HAN.contains(**c)).count();
    telling < 2 && letters.len() < 4
}

static GREETINGS: LazyLock<[(Greeting, Regex); 4]> = LazyLock::new(|| {
    // Every text must consist of such phrases from end to end.
    let phrases = |alternatives: &str| {
        let tail = r"(?:[\s,.!?~。、]|啊|呀|哦|啦|呢|哈|了|亲|客服|\p{So})*";
        Regex::new(&format!(r"^{tail}(?:(?:{alternatives}){tail})+$"))
            .expect("a constant expression")
    };
    let hello = "你们?好|您们?好|在吗|在不在|在么|在嘛|亲|哈喽|哈啰|嗨|早上好|上午好|中午好|下午好|晚上好|早安|早|客服|打扰一?下|请问一?下?|hi|hello|hey|good (?:morning|afternoon|evening)|are you there|there";
    let thanks = "非常感谢|十分感谢|感谢|谢谢|多谢|谢|辛苦|你们?|您|麻烦|好的?|嗯|ok|thanks?|thank you|thx|very much|so much|a lot";
    let farewell = "再见|拜拜|拜|晚安|没事|没有其他问题|没问题|不用|bye|good ?bye|see you|好的?|谢谢|感谢|你|您|good night";
    let acknowledgement = "好的?|嗯|行|可以|我?(?:知道|明白|收到|了解|懂|同意)|原来如此|没事|没问题|[你您]?[好真太]棒|太好|已经(?:弄好|搞定|解决|处理好)|(?:弄好|搞定|解决)了|哦|噢|喔|ok(?:ay)?|got it|i see|fine|sure|alright|对|是的?";
    [
        (Greeting::Thanks, phrases(thanks)),
        (Greeting::Farewell, phrases(farewell)),
        (Greeting::Acknowledgement, phrases(acknowledgement)),
        (Greeting::Hello, phrases(hello)),
    ]
});

/// Words that make a run of courtesies one of thanks or a farewell, not a mere “好的”.
static THANKING: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("谢|辛苦|thank|thx").expect("a constant expression"));
static LEAVING: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new("再见|拜|晚安|没有其他|bye|see you|good night").expect("a constant expression")
});

/// The kind of courtesy that the whole message is; `None` as soon as it says more.
pub fn greeting(text: &str) -> Option<Greeting> {
    let normal = normalize(text);
    if !normal.chars().any(char::is_alphanumeric) {
        return None;
    }
    GREETINGS.iter().find_map(|(kind, whole)| {
        let meant = match kind {
            Greeting::Thanks => THANKING.is_match(&normal) && !LEAVING.is_match(&normal),
            Greeting::Farewell => LEAVING.is_match(&normal),
            Greeting::Hello | Greeting::Acknowledgement => true,
        };
        (meant && whole.is_match(&normal)).then_some(*kind)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_noise_are_told_apart() {
        use Readability::*;
        let pasted = "退款规则说明".repeat(4_000);
        let encoded = "aGVsbG8gd29ybGQ0".repeat(8);
        for (text, expected) in [
            ("", Empty),
            (" \u{200b}\n", Empty),
            ("😀👍🏻", EmojiOnly),
            ("？？？", PunctuationOnly),
            ("……", PunctuationOnly),
            ("\u{1}\u{2}PNG\u{0}\u{3}\u{fffd}", Binary),
            (encoded.as_str(), Binary),
            (pasted.as_str(), TooLong),
            ("你号", TooShort),
            ("我", TooShort),
            ("退", TooShort),
            ("那个", TooShort),
            ("1", TooShort),
            ("ok", TooShort),
            ("退款", Readable),
            ("发票", Readable),
            ("额度", Readable),
            ("vip", Readable),
            ("怎么退", Readable),
            ("https://shop.example.com/item?id=123456", Readable),
            ("13800138000", Readable),
        ] {
            assert_eq!(readability(text), expected, "{text:.40?}");
        }
    }

    #[test]
    fn a_greeting_says_nothing_else() {
        use Greeting::*;
        for (text, expected) in [
            ("你好", Some(Hello)),
            ("您好！在吗？", Some(Hello)),
            ("hi", Some(Hello)),
            ("Hello there!", Some(Hello)),
            ("谢谢", Some(Thanks)),
            ("好的，谢谢您啦😊", Some(Thanks)),
            ("Thank you so much!", Some(Thanks)),
            ("好的", Some(Acknowledgement)),
            ("我知道啦", Some(Acknowledgement)),
            ("已经弄好了", Some(Acknowledgement)),
            ("你好棒", Some(Acknowledgement)),
            ("解决不了", None),
            ("知道了", Some(Acknowledgement)),
            ("好的，再见", Some(Farewell)),
            ("你好，怎么退款", None),
            ("谢谢，还有运费谁出", None),
            ("你好厉害", None),
            ("可以吗", None),
            ("退款", None),
            ("！！", None),
        ] {
            assert_eq!(greeting(text), expected, "{text}");
        }
    }
}
