//! Questions and answers proposed from chats of the past. They are proposals: a person reads each
//! before it may answer anybody.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use super::rows::{json_lines, read_text};
use super::tables::id_of;
use super::{IngestError, RowError, dates};
use crate::base::limits::QUESTION_CHARS;
use crate::base::text::prefix_chars;
use crate::domain::knowledge::{Entry, EntryId, EntryState};
use crate::understand::clauses::sentences;
use crate::understand::normalize::normalize;
use crate::understand::pii;

/// A question that customers asked, with the answer that agents gave most often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub question: String,
    /// Other words for it, as customers put it; without those that differ only in marks.
    pub similar: Vec<String>,
    pub answer: String,
    /// How often it was asked and answered.
    pub count: usize,
    /// How many of those answers were this one.
    pub agreeing: usize,
    /// Personal data stood in the answer and was masked: it may be about one customer only.
    pub personal: bool,
}

impl Candidate {
    /// A draft, which answers nobody until a person publishes it.
    pub fn draft(&self) -> Entry {
        Entry {
            similar_questions: self.similar.clone(),
            answer: Some(self.answer.clone()),
            state: EntryState::Draft,
            ..Entry::new(EntryId(id_of(&self.question)), self.question.clone())
        }
    }
}

/// Candidates from turns in JSON Lines, the most frequent first:
/// `{"conversation": …, "role": "customer"|"agent", "text": …, "time"?: …}`. Other usual names of
/// the fields and roles are understood.
pub fn read_candidates(path: &Path) -> Result<Vec<Candidate>, IngestError> {
    let text = read_text(path)?;
    let mut chats: BTreeMap<String, Vec<Turn>> = BTreeMap::new();
    let mut bad = Vec::new();
    for (line, object) in json_lines(path, &text)? {
        match turn(&object) {
            Ok(Some((chat, turn))) => chats.entry(chat).or_default().push(turn),
            Ok(None) => {}
            Err((field, reason)) => bad.push(RowError::new(path, line, field, reason)),
        }
    }
    if !bad.is_empty() {
        return Err(IngestError::BadRows(bad));
    }
    let mut groups = Groups::default();
    for turns in chats.into_values() {
        for pair in pairs(in_order(turns)) {
            groups.add(pair);
        }
    }
    Ok(groups.candidates())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaker {
    Customer,
    Agent,
}

#[derive(Clone, Debug)]
struct Turn {
    speaker: Speaker,
    text: String,
    time: Option<i64>,
}

type Fault = (&'static str, String);

/// `None` for a turn that neither side said: a system's or a robot's.
fn turn(object: &Map<String, Value>) -> Result<Option<(String, Turn)>, Fault> {
    let chat =
        field(object, &["conversation", "conversation_id", "session", "session_id", "chat_id"])
            .and_then(|v| v.as_str().map(str::to_owned).or_else(|| Some(v.as_i64()?.to_string())))
            .ok_or(("conversation", "must name the conversation".to_owned()))?;
    let role = field(object, &["role", "sender", "from", "speaker"])
        .and_then(Value::as_str)
        .ok_or(("role", "must be customer or agent".to_owned()))?;
    let text = field(object, &["text", "content", "message", "msg"])
        .and_then(Value::as_str)
        .ok_or(("text", "must be text".to_owned()))?;
    let speaker = match role.trim().to_lowercase().as_str() {
        "customer" | "user" | "client" | "visitor" | "buyer" | "客户" | "顾客" | "用户"
        | "买家" | "访客" => Speaker::Customer,
        "agent" | "staff" | "service" | "servicer" | "seller" | "kf" | "客服" | "坐席" | "卖家"
        | "商家" | "人工" | "人工客服" => Speaker::Agent,
        "system" | "bot" | "robot" | "assistant" | "系统" | "机器人" => return Ok(None),
        other => return Err(("role", format!("{other:?} is neither customer nor agent"))),
    };
    let time = field(object, &["time", "timestamp", "created_at", "date"]);
    let time = time.and_then(|v| v.as_i64().or_else(|| dates::instant(v.as_str()?)));
    Ok(Some((chat, Turn { speaker, text: text.to_owned(), time })))
}

fn field<'a>(object: &'a Map<String, Value>, names: &[&str]) -> Option<&'a Value> {
    names.iter().find_map(|name| object.get(*name)).filter(|value| !value.is_null())
}

/// By time where every turn has one, else as the file has them.
fn in_order(mut turns: Vec<Turn>) -> Vec<Turn> {
    if turns.iter().all(|turn| turn.time.is_some()) {
        turns.sort_by_key(|turn| turn.time);
    }
    turns
}

struct Pair {
    question: String,
    answer: String,
    personal: bool,
}

/// Shorter than this a question or answer says nothing by itself, characters.
const FEWEST_CHARS: usize = 4;
/// Longest answer, characters: beyond it somebody pasted a document.
const ANSWER_CHARS: usize = 1_000;
/// More turns than this before an answer are a conversation, not a question.
const QUESTION_TURNS: usize = 4;

/// What the customer said since the last answer, with what the agent then said. An agent who asks
/// back has not answered yet.
fn pairs(turns: Vec<Turn>) -> Vec<Pair> {
    let mut pairs = Vec::new();
    let mut asked: Vec<String> = Vec::new();
    let mut answered = String::new();
    for turn in turns {
        let text = without_courtesies(&turn.text);
        match turn.speaker {
            Speaker::Customer => {
                if !answered.is_empty() {
                    pairs.extend(pair(&std::mem::take(&mut asked), &std::mem::take(&mut answered)));
                }
                if !text.is_empty() {
                    asked.push(text);
                }
            }
            Speaker::Agent if text.is_empty() || text.ends_with(['？', '?']) => {}
            Speaker::Agent => {
                if !answered.is_empty() {
                    answered.push('\n');
                }
                answered.push_str(&text);
            }
        }
    }
    pairs.extend(pair(&asked, &answered));
    pairs
}

fn pair(asked: &[String], answer: &str) -> Option<Pair> {
    let question = pii::mask(&asked.join(" "));
    let answer = pii::mask(answer);
    let length = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).count();
    let fits = asked.len() <= QUESTION_TURNS
        && length(&question.text) >= FEWEST_CHARS
        && length(&answer.text) >= FEWEST_CHARS
        && question.text.chars().count() <= QUESTION_CHARS
        && answer.text.chars().count() <= ANSWER_CHARS;
    let personal = !answer.kinds.is_empty();
    fits.then_some(Pair { question: question.text, answer: answer.text, personal })
}

static COURTESY: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?i)^\s*(?:(?:您?你?好|在吗|在么|在不在|有人吗|哈喽|hi|hello|亲+|亲爱的|谢谢[您你亲们啦了]{0,3}|感谢[^？?]{0,8}|多谢[您你啦了]{0,2}|好的?.{0,2}|嗯+|哦+|噢|行|可以|ok|okay|收到|明白了?|知道了|了解了?|不客气.{0,4}|不用谢|再见|拜拜|祝您.{0,12}|很?高兴为您服务|(?:请问)?有什么(?:可以|能)?帮.{0,10}|请?稍等.{0,6}|这边(?:帮您)?(?:看|查)一下.{0,4}|转人工|人工|thanks?.{0,12}|thank you.{0,12}|bye|welcome)[呀啊哈呢哦噢的了吧哒嘛\s，,。.！!～~？?]*)+$",
    )
    .expect("a constant expression")
});
static GREETING: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)^\s*(?:(?:您好|你好|亲爱的(?:顾客|客户|用户)?|亲|hello|hi)[呀啊哈呢]?[\s，,！!～~。]+)+")
        .expect("a constant expression")
});

/// What is left when greetings, thanks and the like are taken out.
fn without_courtesies(text: &str) -> String {
    let mut kept = String::new();
    for range in sentences(text) {
        let sentence = GREETING.replace(&text[range], "");
        if !COURTESY.is_match(&sentence) {
            kept.push_str(&sentence);
        }
    }
    kept.trim().to_owned()
}

/// Two questions with this part of their character pairs in common are one question.
const SAME: f64 = 0.8;
/// Character pairs that stand in more questions than this tell them apart no more.
const COMMON: usize = 2_000;
/// Most other words that a candidate shows.
const SIMILAR_SHOWN: usize = 20;

/// Questions that say nearly the same, with what was answered to them.
#[derive(Default)]
struct Groups {
    groups: Vec<Group>,
    exact: HashMap<String, usize>,
    /// Groups by the character pairs of their first question.
    by_pair: HashMap<(char, char), Vec<usize>>,
}

struct Group {
    pairs: Vec<(char, char)>,
    /// How often, by wording.
    questions: BTreeMap<String, usize>,
    answers: BTreeMap<String, Answers>,
}

/// Answers that differ in marks only: how many, one of them, and whether it names somebody.
struct Answers {
    count: usize,
    text: String,
    personal: bool,
}

impl Groups {
    fn add(&mut self, Pair { question, answer, personal }: Pair) {
        let normal = normalize(&question);
        if normal.is_empty() {
            return;
        }
        let at = match self.exact.get(&normal) {
            Some(at) => *at,
            None => {
                let at = self.group_for(&normal);
                self.exact.insert(normal, at);
                at
            }
        };
        let Some(group) = self.groups.get_mut(at) else { return };
        *group.questions.entry(question).or_default() += 1;
        let key = normalize(&answer);
        let same = group.answers.entry(key).or_insert(Answers { count: 0, text: answer, personal });
        same.count += 1;
    }

    /// The group that says nearly the same, or a new one.
    fn group_for(&mut self, normal: &str) -> usize {
        let pairs = character_pairs(normal);
        let mut common: HashMap<usize, usize> = HashMap::new();
        for pair in &pairs {
            let groups = self.by_pair.get(pair).filter(|groups| groups.len() <= COMMON);
            for at in groups.into_iter().flatten() {
                *common.entry(*at).or_default() += 1;
            }
        }
        let alike = |(at, shared): (usize, usize)| {
            let all = pairs.len() + self.groups[at].pairs.len() - shared;
            (shared as f64 / all.max(1) as f64, std::cmp::Reverse(at))
        };
        let nearest =
            common.into_iter().map(alike).max_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        if let Some((likeness, std::cmp::Reverse(at))) = nearest
            && likeness >= SAME
        {
            return at;
        }
        let at = self.groups.len();
        for pair in &pairs {
            self.by_pair.entry(*pair).or_default().push(at);
        }
        self.groups.push(Group { pairs, questions: BTreeMap::new(), answers: BTreeMap::new() });
        at
    }

    fn candidates(self) -> Vec<Candidate> {
        let mut candidates: Vec<Candidate> =
            self.groups.into_iter().filter_map(Group::candidate).collect();
        candidates.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.question.cmp(&b.question)));
        candidates
    }
}

impl Group {
    fn candidate(self) -> Option<Candidate> {
        let mut questions: Vec<(String, usize)> = self.questions.into_iter().collect();
        questions.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let count = questions.iter().map(|(_, n)| n).sum();
        let mut wordings = questions.into_iter().map(|(question, _)| question);
        let question = wordings.next()?;
        let mut seen = vec![normalize(&question)];
        let similar = wordings
            .filter(|wording| {
                let normal = normalize(wording);
                let is_new = !seen.contains(&normal);
                seen.push(normal);
                is_new
            })
            .take(SIMILAR_SHOWN)
            .map(|wording| prefix_chars(&wording, QUESTION_CHARS).to_owned())
            .collect();
        let answer = self.answers.into_values().max_by_key(|answers| answers.count)?;
        Some(Candidate {
            question,
            similar,
            answer: answer.text,
            count,
            agreeing: answer.count,
            personal: answer.personal,
        })
    }
}

fn character_pairs(text: &str) -> Vec<(char, char)> {
    let said: Vec<char> = text.chars().filter(|c| c.is_alphanumeric()).collect();
    let mut pairs: Vec<(char, char)> =
        said.iter().copied().zip(said.iter().copied().skip(1)).collect();
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(lines: &str) -> Result<Vec<Candidate>, IngestError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chats.jsonl");
        std::fs::write(&path, lines).unwrap();
        read_candidates(&path)
    }

    #[test]
    fn chats_become_drafts_of_what_was_asked_and_answered() {
        let found = candidates(
            r#"{"conversation":"1","role":"customer","text":"你好，在吗"}
{"conversation":"1","role":"agent","text":"您好，很高兴为您服务！"}
{"conversation":"1","role":"customer","text":"你们多久可以发货？"}
{"conversation":"1","role":"agent","text":"请问您的订单号是多少？"}
{"conversation":"1","role":"customer","text":"我的手机是13812345678"}
{"conversation":"1","role":"agent","text":"亲，现货订单48小时内发货。"}
{"conversation":"1","role":"customer","text":"谢谢"}
{"session_id":2,"sender":"客户","content":"你们多久可以发货呀？","time":"2026/1/2 8:01"}
{"session_id":2,"sender":"客服","content":"48小时内。","time":"2026/1/2 8:02"}
{"session_id":3,"from":"user","message":"你们多久可以发货"}
{"session_id":3,"from":"bot","message":"猜你想问"}
{"session_id":3,"from":"staff","message":"您好！48小时内。好的，祝您生活愉快！"}
{"session_id":4,"from":"staff","message":"寄到张三 13812345678 即可","time":20}
{"session_id":4,"from":"user","message":"退货寄到哪里去","time":10}"#,
        )
        .unwrap();
        let told: Vec<_> = found
            .iter()
            .map(|c| (c.question.as_str(), c.answer.as_str(), c.count, c.agreeing, c.personal))
            .collect();
        assert_eq!(told.len(), 3, "{told:?}");
        assert_eq!(told[0].0, "你们多久可以发货");
        assert_eq!((told[0].1, told[0].2, told[0].3), ("48小时内。", 2, 2));
        assert_eq!(found[0].draft().state, EntryState::Draft);
        for candidate in &found {
            assert!(!format!("{candidate:?}").contains("13812345678"));
        }
        assert!(found.iter().any(|c| c.personal && c.question == "退货寄到哪里去"));
    }

    #[test]
    fn what_is_no_turn_is_named() {
        let error = candidates(
            "{\"conversation\":\"1\",\"role\":\"cat\",\"text\":\"x\"}\n{\"role\":\"user\",\"text\":\"x\"}",
        );
        let Err(IngestError::BadRows(rows)) = error else { panic!("expected bad rows") };
        assert_eq!(
            rows.iter().map(|r| (r.line, r.field)).collect::<Vec<_>>(),
            [(1, "role"), (2, "conversation")]
        );
    }
}
