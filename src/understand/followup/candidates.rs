//! Which of the things that an exchange named a message is about: each gets points, the most win.
//!
//! The points were set by hand and tried on `rewrite_zh.dev` (open-domain chat), where the thing
//! with the most is the right one in about half of the messages, and overlaps it by three quarters.

use super::PRONOUN;
use super::content::{Part, matters, parts};
use super::topic::{Exchange, asks, body_of, things};
use crate::base::pattern::pattern;
use crate::base::text::prefix_chars;
use crate::base::words::tagged;

/// Longest candidate, characters.
const CANDIDATE_CHARS: usize = 16;
/// So much of a long question or reply is looked through, characters.
const READ_CHARS: usize = 100;

/// A thing between words that say something of it.
const THING: f32 = 3.0;
/// What a question leaves without its asking; more when it is all things (“信用卡还款”).
const BODY: f32 = 2.0;
const BODY_OF_THINGS: f32 = 3.0;
/// Said in the question and again in the reply.
const SHARED: f32 = 4.0;
/// Words of one and of two characters are often pieces of a name.
const ONE_CHAR: f32 = -4.0;
const TWO_CHARS: f32 = -1.0;
/// The share of its characters that the message says itself.
const SAID_AGAIN: f32 = -5.0;
/// Named by the question alone; and nothing is named by the reply.
const ASKED: f32 = 1.0;
const ONLY_THING: f32 = 2.0;
/// A matter of the service that the customer named, at most two.
const MATTER: f32 = 2.0;
/// It holds a pronoun, or asks.
const POINTS_AWAY: f32 = -2.0;
const ASKS: f32 = -2.0;
/// Named by the reply alone: to a question which one, before “不喜欢”, and before “它” and “这个”;
/// “他” is rather who the customer spoke of.
const ANSWERS_WHICH: f32 = 2.0;
const DENIED: f32 = 2.0;
const POINTED_AT: f32 = 1.0;
const PERSON_REPLIED: f32 = -1.0;
/// A person for “他”.
const PERSON: f32 = 3.0;
/// With so many points less, the other side's best is about as likely.
const CLOSE: f32 = 2.0;

// Questions that the reply answers with a name.
pattern!(WHICH = "(?:什么|啥)[^意样时呀啊呢吗?？]|哪[^里儿]|谁|推荐");
pattern!(DENYING = "^[我你]?[不没也]");
pattern!(POINTING = "[我你您他她它这那]");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Asked,
    Replied,
    Both,
}

struct Candidate {
    text: String,
    points: f32,
    side: Side,
}

/// The likeliest thing.
pub(super) fn best(exchange: &Exchange, message: &str) -> Option<String> {
    ranked(exchange, message).into_iter().next().map(|first| first.text)
}

/// The likeliest thing, and the likeliest of the other side when it is close.
pub(super) fn best_of_each(exchange: &Exchange, message: &str) -> Option<String> {
    let ranked = ranked(exchange, message);
    let first = ranked.first()?;
    let close = ranked.iter().take_while(|other| first.points - other.points <= CLOSE);
    let mut others = close.filter(|other| {
        first.side != Side::Both
            && other.side != Side::Both
            && other.side != first.side
            && !first.text.contains(&other.text)
            && !other.text.contains(&first.text)
    });
    Some(match others.next() {
        Some(other) if other.side == Side::Asked => format!("{}{}", other.text, first.text),
        Some(other) => format!("{}{}", first.text, other.text),
        None => first.text.clone(),
    })
}

/// What the exchange named and the message does not, likeliest first.
fn ranked(exchange: &Exchange, message: &str) -> Vec<Candidate> {
    let asked = prefix_chars(&exchange.asked, READ_CHARS);
    let replied = prefix_chars(&exchange.replied, READ_CHARS);
    let (asked_things, replied_things) = (things(asked), things(replied));
    let reading = Reading::of(asked, replied, message, !replied_things.is_empty());
    let mut found: Vec<Candidate> = Vec::new();
    for (at, thing) in asked_things.iter().chain(&replied_things).enumerate() {
        let again = asked_things.iter().chain(&replied_things).take(at).any(|one| one == thing);
        reading.add(&mut found, thing, if again { 0.0 } else { THING });
    }
    reading.add(&mut found, &body_of(shared(asked, replied)), SHARED);
    for said in [asked, replied] {
        let body = body_of(said);
        let all_things = parts(&body).iter().all(|(_, part)| *part == Part::Thing);
        reading.add(&mut found, &body, if all_things { BODY_OF_THINGS } else { BODY });
    }
    found.iter_mut().for_each(|candidate| candidate.points += reading.points(candidate));
    found.sort_by(|a, b| b.points.total_cmp(&a.points));
    found
}

/// The exchange as this message makes it be read.
struct Reading<'a> {
    asked: &'a str,
    replied: &'a str,
    message: &'a str,
    reply_names: bool,
    which: bool,
    denies: bool,
    /// The message points at a person, or at something else.
    person: bool,
    thing: bool,
}

impl<'a> Reading<'a> {
    fn of(asked: &'a str, replied: &'a str, message: &'a str, reply_names: bool) -> Self {
        let person = message.contains(['他', '她']);
        Self {
            asked,
            replied,
            message,
            reply_names,
            which: WHICH.is_match(asked),
            denies: DENYING.is_match(message),
            person,
            thing: !person && PRONOUN.captures_iter(message).any(|c| c.name("p").is_some()),
        }
    }

    /// Points add up for what is found in several ways.
    fn add(&self, found: &mut Vec<Candidate>, text: &str, points: f32) {
        let text = text.trim_matches([' ', '的', '了']);
        let fits = (1..=CANDIDATE_CHARS).contains(&text.chars().count());
        if !fits || self.message.contains(text) {
            return;
        }
        if let Some(known) = found.iter_mut().find(|known| known.text == text) {
            known.points += points;
            return;
        }
        let side = match (self.asked.contains(text), self.replied.contains(text)) {
            (true, true) => Side::Both,
            (_, false) => Side::Asked,
            (false, true) => Side::Replied,
        };
        found.push(Candidate { text: text.to_owned(), points, side });
    }

    fn points(&self, candidate: &Candidate) -> f32 {
        let text = candidate.text.as_str();
        let when = |holds: bool, points: f32| if holds { points } else { 0.0 };
        let chars = text.chars().count();
        let again = text.chars().filter(|c| self.message.contains(*c)).count();
        let mut points = SAID_AGAIN * again as f32 / chars as f32
            + when(chars == 1, ONE_CHAR)
            + when(chars == 2, TWO_CHARS)
            + when(POINTING.is_match(text), POINTS_AWAY)
            + when(asks(text), ASKS)
            + when(self.person && names_person(text), PERSON);
        if candidate.side == Side::Replied {
            points += when(self.which, ANSWERS_WHICH)
                + when(self.denies, DENIED)
                + when(self.thing, POINTED_AT)
                + when(self.person, PERSON_REPLIED);
        } else {
            points += MATTER * matters(text).min(2) as f32;
        }
        if candidate.side == Side::Asked {
            points += ASKED + when(!self.reply_names, ONLY_THING);
        }
        points
    }
}

fn names_person(text: &str) -> bool {
    tagged(text).iter().any(|found| matches!(found.tag, "nr" | "nrt" | "nrfg"))
}

/// The longest text that stands in both; empty when that is a single character.
fn shared<'a>(asked: &'a str, replied: &str) -> &'a str {
    let asked_chars: Vec<(usize, char)> = asked.char_indices().collect();
    let replied: Vec<char> = replied.chars().collect();
    let mut row = vec![0_usize; replied.len() + 1];
    let (mut longest, mut end) = (1, 0);
    for (at, (_, c)) in asked_chars.iter().enumerate() {
        for to in (0..replied.len()).rev() {
            row[to + 1] = if replied[to] == *c { row[to] + 1 } else { 0 };
            if row[to + 1] > longest {
                (longest, end) = (row[to + 1], at + 1);
            }
        }
    }
    let Some(start) = end.checked_sub(longest) else { return "" };
    let from = asked_chars.get(start).map_or(0, |(at, _)| *at);
    let to = asked_chars.get(end).map_or(asked.len(), |(at, _)| *at);
    &asked[from..to]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(asked: &str, replied: &str, message: &str) -> Option<String> {
        best(&Exchange { asked: asked.into(), replied: replied.into() }, message)
    }

    #[test]
    fn the_longest_shared_text_is_found() {
        assert_eq!(shared("你知道王万里吗", "王万里是谁"), "王万里");
        assert_eq!(shared("退货", "货退"), "");
        assert_eq!(shared("", "退货"), "");
        assert_eq!(shared("退货", "退货"), "退货");
    }

    #[test]
    fn what_both_said_is_the_topic_even_where_words_are_cut_wrong() {
        assert_eq!(topic("你认识王万里吗", "王万里是谁", "你不认识吗").as_deref(), Some("王万里"));
    }

    #[test]
    fn the_reply_names_what_a_question_which_one_asked_for() {
        let asked = "有什么套餐推荐";
        assert_eq!(topic(asked, "畅享套餐", "没听过").as_deref(), Some("畅享套餐"));
        assert_eq!(
            topic("信用卡怎么还款", "请看说明", "要手续费吗").as_deref(),
            Some("信用卡还款")
        );
    }

    #[test]
    fn both_are_named_when_either_may_be_meant() {
        let exchange =
            Exchange { asked: "能开专票吗".into(), replied: "请联系客服".into() };
        let both = best_of_each(&exchange, "要多久").unwrap();
        assert!(both.contains("专票") && both.contains("客服"), "{both}");
    }
}
