//! Floor 2: what a message says before anything is looked up. Pure; rules first.
//!
//! [`understand`] joins the parts; [`clauses`] serves drafting, which cuts answers where no
//! condition gets lost.

use crate::domain::message::{Role, Utterance};
use crate::domain::trace::Understanding;

pub mod clauses;
pub mod followup;
pub mod fragments;
pub mod language;
pub mod matters;
pub mod normalize;
pub mod pii;
pub mod readability;
pub mod signals;

pub use language::Language;
pub use pii::PersonalKind;
pub use readability::{Greeting, Readability};
pub use signals::{Concern, SignalKind, Signals};

/// A message as the rest of the service sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Understood {
    /// The message without personal data, otherwise as it was written.
    pub masked: String,
    /// What to search with: masked, standing alone, normalised.
    pub question: String,
    /// The rule that used the conversation to make it stand alone.
    pub rewritten_by: Option<&'static str>,
    pub language: Language,
    pub readability: Readability,
    /// Set when the message is nothing but a courtesy.
    pub greeting: Option<Greeting>,
    /// Spans count bytes of the message as it was given.
    pub signals: Signals,
    /// Kinds that were masked, one per span.
    pub personal_data: Vec<PersonalKind>,
}

/// Reads a message together with what was said before it, oldest first.
pub fn understand(text: &str, context: &[Utterance]) -> Understood {
    let masked = pii::mask(text);
    let context: Vec<Utterance> = context
        .iter()
        .map(|said| Utterance { role: said.role, text: pii::mask(&said.text).text })
        .collect();
    let greeting = readability::greeting(text);
    let readable = readability::readability(text);
    // After something was said, “贵吗” is a whole question.
    let may_lean = readable == Readability::Readable
        || readable == Readability::TooShort && !readability::is_interjection(text);
    let worth_resolving = greeting.is_none() && may_lean;
    let earlier = if worth_resolving { context.as_slice() } else { &[] };
    let standalone = followup::standalone(&masked.text, earlier);
    // “可以吗” asks nothing when there was nothing before it.
    let stump = worth_resolving && !standalone.rewritten && names_nothing(&masked);
    let readability = if stump {
        Readability::TooShort
    } else if standalone.rewritten {
        Readability::Readable
    } else {
        readable
    };
    Understood {
        question: normalize::normalize(&standalone.text),
        rewritten_by: standalone.rule,
        language: language::detect(text),
        readability,
        greeting,
        signals: signals::find(text),
        personal_data: masked.kinds,
        masked: masked.text,
    }
}

/// Compiles rules and reads dictionaries, which the first message would wait for otherwise.
pub fn warm_up() {
    let said = Utterance {
        role: Role::Customer, text: "你好，订单12345的运费是多少？".into()
    };
    let reply =
        Utterance { role: Role::Agent, text: "满99元包邮，三到五天送到。".into() };
    understand("那退货呢，我电话13800138000，how much is it", &[said, reply]);
    fragments::is_fragment("我想问下，那个退货");
}

/// Longest message that may be set aside as naming nothing, characters.
const STUMP_CHARS: usize = 6;

fn names_nothing(masked: &pii::Masked) -> bool {
    masked.kinds.is_empty()
        && masked.text.chars().nth(STUMP_CHARS).is_none()
        && followup::is_empty(&masked.text)
}

impl From<&Understood> for Understanding {
    fn from(understood: &Understood) -> Self {
        Self {
            question: understood.question.clone(),
            rewritten: understood.rewritten_by.is_some(),
            language: understood.language.as_str().to_owned(),
            signals: understood.signals.rules().into_iter().map(str::to_owned).collect(),
            personal_data: understood.personal_data.iter().map(|k| k.as_str().to_owned()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::decision::Reason;

    fn customer(text: &str) -> Utterance {
        Utterance { role: Role::Customer, text: text.to_owned() }
    }

    #[test]
    fn a_message_is_understood_in_one_go() {
        let understood = understand("請問退貨要幾天？我電話１３８００１３８０００", &[]);
        assert_eq!(understood.masked, "請問退貨要幾天？我電話⟨手机号⟩");
        assert_eq!(understood.question, "请问退货要几天?我电话⟨手机号⟩");
        assert_eq!(understood.language, Language::Chinese);
        assert_eq!(understood.readability, Readability::Readable);
        assert_eq!(understood.personal_data, [PersonalKind::Phone]);
        assert!(understood.signals.hard_reasons().is_empty());
        let stored = Understanding::from(&understood);
        assert_eq!(stored.personal_data, ["phone"]);
        assert!(!stored.rewritten);
    }

    #[test]
    fn the_conversation_is_used_and_masked() {
        let context = [customer("退货要几天，我电话13800138000"), customer("自动续费是什么")];
        let understood = understand("怎么取消", &context);
        assert_eq!(understood.question, "自动续费怎么取消");
        assert_eq!(understood.rewritten_by, Some("followup.elided"));
        let understood = understand("怎么取消", &context[..1]);
        assert!(!understood.question.contains("138"), "{}", understood.question);
    }

    #[test]
    fn a_stump_without_a_conversation_is_too_short() {
        assert_eq!(understand("可以吗", &[]).readability, Readability::TooShort);
        assert_eq!(understand("为什么？", &[]).readability, Readability::TooShort);
        let answered = understand("可以吗", &[customer("我想提前还款")]);
        assert_eq!(answered.readability, Readability::Readable);
        let context = [customer("会员年卡多少钱")];
        let leaning = understand("贵吗", &context);
        assert_eq!(leaning.readability, Readability::Readable);
        assert!(leaning.question.contains("会员年卡"), "{}", leaning.question);
        assert_eq!(understand("贵吗", &[]).readability, Readability::TooShort);
        for nothing in ["啊?", "嗯嗯呢", "k"] {
            let understood = understand(nothing, &context);
            assert_eq!(
                (understood.rewritten_by, understood.question.contains("年卡")),
                (None, false)
            );
        }
        for text in ["退款", "发票", "怎么取消", "人工", "价格", "How much is it"] {
            assert_eq!(understand(text, &[]).readability, Readability::Readable, "{text}");
        }
    }

    #[test]
    fn a_greeting_is_no_follow_up() {
        let understood = understand("好的，谢谢", &[customer("退货要几天")]);
        assert_eq!(understood.greeting, Some(Greeting::Thanks));
        assert_eq!(understood.rewritten_by, None);
    }

    #[test]
    fn signals_survive_masking() {
        let understood = understand("我叫张三，账号被盗了，转人工", &[]);
        let reasons = understood.signals.hard_reasons();
        assert_eq!(reasons, [Reason::SecurityIncident, Reason::HumanRequest]);
        assert!(!understood.masked.contains("张三"));
        assert!(Understanding::from(&understood).signals.contains(&"human.staff".to_owned()));
    }

    proptest! {
        #[test]
        fn any_text_is_understood(text in "[\\s\\S]{0,60}", before in "\\PC{0,30}") {
            let understood = understand(&text, &[customer(&before)]);
            prop_assert_eq!(normalize::normalize(&understood.question), understood.question.clone());
            for hit in &understood.signals.hits {
                prop_assert!(text.get(hit.span.clone()).is_some());
            }
        }
    }
}
