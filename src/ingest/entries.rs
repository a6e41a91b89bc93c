//! Entries from rows, and back: each field checked, each fault named by line and field.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::apart::Limits;
use super::rows::{Row, entry_rows};
use super::{IngestError, RowError, columns, dates};
use crate::base::clock::UnixMs;
use crate::base::limits::QUESTION_CHARS;
use crate::domain::knowledge::{
    Audience, Domain, Entry, EntryId, EntryState, Level, Nature, Scene, Tone, Validity,
};
use crate::domain::message::AccountName;
use crate::domain::qualification::QualificationId;
use crate::domain::variables::{self, Variable};

/// Longest answer, characters: beyond it the file is a document, not an entry.
const ANSWER_CHARS: usize = 4_000;
/// Most similar questions of one entry.
const MOST_SIMILAR: usize = 500;
/// Longest id, characters.
const ID_CHARS: usize = 128;
/// What separates similar questions inside one CSV cell.
const CELL_SEPARATORS: [char; 3] = ['|', '\n', '｜'];

/// All entries of a JSONL, CSV or Excel file, or every fault in it.
pub fn read_entries(path: &Path) -> Result<Vec<Entry>, IngestError> {
    read_entries_within(path, &Limits::default())
}

/// [`read_entries`] with other limits for the process that reads a workbook.
pub fn read_entries_within(path: &Path, limits: &Limits) -> Result<Vec<Entry>, IngestError> {
    entries(path, &entry_rows(path, limits)?)
}

/// [`read_entries`] with the line on which each entry begins.
pub fn read_numbered_entries(path: &Path) -> Result<Vec<(u64, Entry)>, IngestError> {
    numbered(path, &entry_rows(path, &Limits::default())?)
}

/// The entries of rows that were read from `path`, or every fault in them.
pub(super) fn entries(path: &Path, rows: &[Row]) -> Result<Vec<Entry>, IngestError> {
    Ok(numbered(path, rows)?.into_iter().map(|(_, entry)| entry).collect())
}

fn numbered(path: &Path, rows: &[Row]) -> Result<Vec<(u64, Entry)>, IngestError> {
    let mut entries = Vec::new();
    let mut bad = Vec::new();
    let mut first_place: BTreeMap<EntryId, String> = BTreeMap::new();
    for row in rows {
        let mut fields = Fields { path, row, bad: Vec::new() };
        let entry = fields.entry();
        bad.append(&mut fields.bad);
        let Some(entry) = entry else { continue };
        if let Some(place) = first_place.insert(entry.id.clone(), row.place()) {
            let reason = format!("{} is already on {place}", entry.id);
            bad.push(row.fault(path, columns::ID, reason));
        }
        entries.push((row.line, entry));
    }
    if bad.is_empty() { Ok(entries) } else { Err(IngestError::BadRows(bad)) }
}

/// Reads one row's fields and collects what is wrong with them.
struct Fields<'a> {
    path: &'a Path,
    row: &'a Row,
    bad: Vec<RowError>,
}

impl Fields<'_> {
    fn entry(&mut self) -> Option<Entry> {
        let id = self.required(columns::ID, ID_CHARS);
        let question = self.required(columns::QUESTION, QUESTION_CHARS);
        let similar_questions = self.similar_questions();
        let answer = self.text(columns::ANSWER, ANSWER_CHARS);
        let scene = self.word((columns::SCENE, columns::scene), Scene::ALL, Scene::Inquiry);
        let level = self.word((columns::LEVEL, columns::level), Level::ALL, Level::Primary);
        let parent = self.text(columns::PARENT, ID_CHARS).map(EntryId);
        let tone = self.word((columns::TONE, columns::tone), Tone::ALL, Tone::Neutral);
        let domain = self.word((columns::DOMAIN, columns::domain), Domain::ALL, Domain::General);
        let state =
            self.word((columns::STATE, columns::state), EntryState::ALL, EntryState::Published);
        let nature = self.word((columns::NATURE, columns::nature), Nature::ALL, Nature::Service);
        let validity =
            Validity { from: self.time(columns::FROM), until: self.time(columns::UNTIL) };
        if let (Some(from), Some(until)) = (validity.from, validity.until)
            && from >= until
        {
            self.fault(columns::UNTIL, "lies before valid_from");
        }
        if parent.as_ref().map(EntryId::as_str) == id.as_deref() && id.is_some() {
            self.fault(columns::PARENT, "an entry cannot be its own parent");
        }
        let audiences = self.audiences();
        let accounts = self.list(columns::ACCOUNTS).into_iter().map(AccountName).collect();
        let qualifications = self.list(columns::QUALIFICATIONS);
        let qualifications = qualifications.into_iter().map(QualificationId).collect();
        let wordings = self.wordings();
        for text in answer.iter().chain(wordings.values()) {
            for unknown in variables::unknown(text) {
                let reason = format!("unknown variable {unknown} (known: {})", Variable::names());
                self.fault(columns::ANSWER, reason);
            }
        }
        if !self.bad.is_empty() {
            return None;
        }
        Some(Entry {
            id: EntryId(id?),
            question: question?,
            similar_questions,
            answer,
            scene,
            level,
            parent,
            tone,
            domain,
            validity,
            state,
            nature,
            qualifications,
            audiences,
            accounts,
            wordings,
            place: None,
        })
    }

    fn audiences(&mut self) -> BTreeSet<Audience> {
        let mut audiences = BTreeSet::new();
        for word in self.list(columns::AUDIENCES) {
            match columns::audience(&word) {
                Some(audience) => {
                    audiences.insert(audience);
                }
                None => self.fault(columns::AUDIENCES, format!("unknown word {word:?}")),
            }
        }
        audiences
    }

    fn wordings(&mut self) -> BTreeMap<AccountName, String> {
        let object = match self.row.fields.get(columns::WORDINGS) {
            None | Some(Value::Null) => return BTreeMap::new(),
            Some(Value::Object(object)) => object,
            // An empty cell of a table.
            Some(Value::String(cell)) if cell.trim().is_empty() => return BTreeMap::new(),
            Some(other) => {
                let reason = format!("must be an object of account and text, is {other}");
                self.fault(columns::WORDINGS, reason);
                return BTreeMap::new();
            }
        };
        let mut wordings = BTreeMap::new();
        for (account, text) in object {
            match text.as_str().map(str::trim) {
                Some(text) if text.chars().count() <= ANSWER_CHARS => {
                    wordings.insert(AccountName(account.clone()), text.to_owned());
                }
                Some(_) | None => {
                    let reason =
                        format!("{account}: must be text of at most {ANSWER_CHARS} characters");
                    self.fault(columns::WORDINGS, reason);
                }
            }
        }
        wordings
    }

    fn fault(&mut self, field: &'static str, reason: impl Into<String>) {
        self.bad.push(self.row.fault(self.path, field, reason.into()));
    }

    /// Trimmed text; `None` when absent, null or empty.
    fn text(&mut self, field: &'static str, max_chars: usize) -> Option<String> {
        let text = match self.row.fields.get(field) {
            None | Some(Value::Null) => return None,
            Some(Value::String(text)) => text.trim(),
            Some(other) => {
                self.fault(field, format!("must be text, is {other}"));
                return None;
            }
        };
        let length = text.chars().count();
        if length > max_chars {
            self.fault(field, format!("has {length} characters, at most {max_chars} are allowed"));
        }
        (!text.is_empty()).then(|| text.to_owned())
    }

    fn required(&mut self, field: &'static str, max_chars: usize) -> Option<String> {
        let before = self.bad.len();
        let text = self.text(field, max_chars);
        if text.is_none() && self.bad.len() == before {
            self.fault(field, "is missing");
        }
        text
    }

    fn similar_questions(&mut self) -> Vec<String> {
        let kept = self.list(columns::SIMILAR);
        if kept.iter().any(|text| text.chars().count() > QUESTION_CHARS) {
            let reason = format!("one has more than {QUESTION_CHARS} characters");
            self.fault(columns::SIMILAR, reason);
        }
        if kept.len() > MOST_SIMILAR {
            self.fault(columns::SIMILAR, format!("more than {MOST_SIMILAR}"));
        }
        kept
    }

    /// A list, or a table's cell with separators; trimmed, each text once.
    fn list(&mut self, field: &'static str) -> Vec<String> {
        let texts: Vec<&str> = match self.row.fields.get(field) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(cell)) => cell.split(CELL_SEPARATORS).collect(),
            Some(Value::Array(items)) => {
                let texts: Option<Vec<_>> = items.iter().map(Value::as_str).collect();
                texts.unwrap_or_else(|| {
                    self.fault(field, "must be a list of texts");
                    Vec::new()
                })
            }
            Some(other) => {
                self.fault(field, format!("must be a list of texts, is {other}"));
                Vec::new()
            }
        };
        let mut kept: Vec<String> = Vec::new();
        for text in texts.into_iter().map(str::trim).filter(|t| !t.is_empty()) {
            if !kept.iter().any(|k| k == text) {
                kept.push(text.to_owned());
            }
        }
        kept
    }

    fn word<T: Copy + std::fmt::Display>(
        &mut self,
        (field, parse): (&'static str, impl Fn(&str) -> Option<T>),
        all: &[T],
        default: T,
    ) -> T {
        let Some(word) = self.text(field, ID_CHARS) else { return default };
        parse(&word).unwrap_or_else(|| {
            let all = all.iter().map(T::to_string).collect::<Vec<_>>().join(", ");
            self.fault(field, format!("unknown word {word:?}: one of {all}"));
            default
        })
    }

    fn time(&mut self, field: &'static str) -> Option<UnixMs> {
        let text = self.text(field, ID_CHARS)?;
        let instant = dates::instant(&text);
        if instant.is_none() {
            self.fault(field, format!("{text:?} is none of {}", dates::FORMS));
        }
        instant
    }
}

fn time_text(at: Option<UnixMs>) -> Option<String> {
    at.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).map(|t| t.to_string())
}

/// Writes what [`read_entries`] reads back as equal entries.
pub fn write_jsonl(entries: &[Entry], out: &mut dyn Write) -> std::io::Result<()> {
    for entry in entries {
        let line = json!({
            columns::ID: entry.id,
            columns::QUESTION: entry.question,
            columns::SIMILAR: entry.similar_questions,
            columns::ANSWER: entry.answer,
            columns::SCENE: entry.scene,
            columns::LEVEL: entry.level,
            columns::PARENT: entry.parent,
            columns::TONE: entry.tone,
            columns::DOMAIN: entry.domain,
            columns::FROM: time_text(entry.validity.from),
            columns::UNTIL: time_text(entry.validity.until),
            columns::STATE: entry.state,
            columns::NATURE: entry.nature,
            columns::QUALIFICATIONS: entry.qualifications,
            columns::AUDIENCES: entry.audiences,
            columns::ACCOUNTS: entry.accounts,
            columns::WORDINGS: entry.wordings,
        });
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// CSV with a UTF-8 byte order mark, so that Excel opens it as text. Cells that a spreadsheet
/// would run as a formula get a leading apostrophe.
pub fn write_csv(entries: &[Entry], out: &mut dyn Write) -> std::io::Result<()> {
    out.write_all("\u{feff}".as_bytes())?;
    let worded: BTreeSet<&AccountName> = entries.iter().flat_map(|e| e.wordings.keys()).collect();
    let fields = columns::ALL.into_iter().filter(|field| *field != columns::WORDINGS);
    let header = fields.map(str::to_owned).chain(worded.iter().map(|a| format!("answer@{a}")));
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(header)?;
    for entry in entries {
        let cells = [
            entry.id.0.clone(),
            entry.question.clone(),
            entry.similar_questions.join("|"),
            entry.answer.clone().unwrap_or_default(),
            entry.scene.to_string(),
            entry.level.to_string(),
            entry.parent.as_ref().map(|id| id.0.clone()).unwrap_or_default(),
            entry.tone.to_string(),
            entry.domain.to_string(),
            time_text(entry.validity.from).unwrap_or_default(),
            time_text(entry.validity.until).unwrap_or_default(),
            entry.state.to_string(),
            entry.nature.to_string(),
            joined(entry.qualifications.iter().map(QualificationId::as_str)),
            joined(entry.audiences.iter().map(|a| a.as_str())),
            joined(entry.accounts.iter().map(AccountName::as_str)),
        ];
        let wordings = worded.iter().map(|a| entry.wordings.get(a).cloned().unwrap_or_default());
        writer.write_record(cells.into_iter().chain(wordings).map(|cell| {
            if cell.starts_with(['=', '+', '-', '@', '\t']) { format!("'{cell}") } else { cell }
        }))?;
    }
    writer.flush()
}

/// A list as one cell.
fn joined<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    texts.collect::<Vec<_>>().join("|")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn read(name: &str, content: &[u8]) -> Result<Vec<Entry>, IngestError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        read_entries(&path)
    }

    fn faults(name: &str, content: &str) -> Vec<(u64, &'static str)> {
        match read(name, content.as_bytes()) {
            Err(IngestError::BadRows(rows)) => rows.iter().map(|r| (r.line, r.field)).collect(),
            other => panic!("expected bad rows, got {other:?}"),
        }
    }

    #[test]
    fn a_plain_line_gets_the_defaults() {
        let entries =
            read("kb.jsonl", r#"{"id":"a","question":"怎么退货","more":1}"#.as_bytes()).unwrap();
        assert_eq!(entries[0].scene, Scene::Inquiry);
        assert_eq!(entries[0].answer, None);
        assert_eq!(entries[0].state, EntryState::Published);
    }

    #[test]
    fn chinese_csv_in_gb18030() {
        let text = "编号,标准问题,相似问题,答案,场景\nA,怎么退货,退货流程|想退,七天内可退。,投诉\n";
        let (bytes, _, _) = encoding_rs::GB18030.encode(text);
        let entries = read("kb.csv", &bytes).unwrap();
        assert_eq!(entries[0].similar_questions, ["退货流程", "想退"]);
        assert_eq!(entries[0].scene, Scene::Complaint);
    }

    #[test]
    fn dates_as_excel_writes_them_and_entries_without_ids() {
        let text = "问题,答案,生效日期\n怎么退货,七天内可退。,2026/1/31\n";
        let entries = read("kb.csv", text.as_bytes()).unwrap();
        assert_eq!(entries[0].validity.from, dates::instant("2026-01-31"));
        assert!(entries[0].id.as_str().starts_with("q."));
        let again = faults("kb.csv", "问题,答案\n怎么退货,a\n怎么退货,b\n");
        assert_eq!(again, [(3, columns::ID)]);
    }

    #[test]
    fn every_fault_is_named() {
        let text = "{\"id\":\"a\",\"question\":\"\"}\n\n{\"id\":\"b\",\"question\":\"q\",\"scene\":\"love\"}\n\
                    {\"id\":\"c\",\"question\":\"q\"}\n{\"id\":\"c\",\"question\":\"q\"}\n\
                    {\"id\":\"d\",\"question\":\"q\",\"similar_questions\":[1]}\n\
                    {\"id\":\"e\",\"question\":\"q\",\"valid_from\":\"soon\"}";
        let expected = [
            (1, columns::QUESTION),
            (3, columns::SCENE),
            (5, columns::ID),
            (6, columns::SIMILAR),
            (7, columns::FROM),
        ];
        assert_eq!(faults("kb.jsonl", text), expected);
        assert_eq!(faults("kb.jsonl", "{\"id\":1}\nnot json"), [(2, "line")]);
        assert_eq!(faults("kb.csv", "id,question\na,q,extra\n"), [(2, "row")]);
    }

    #[test]
    fn a_csv_without_the_needed_columns_says_what_it_has() {
        let error = read("kb.csv", b"name,text\nx,y\n").unwrap_err().to_string();
        assert!(error.contains("no column question") && error.contains("name, text"), "{error}");
    }

    #[test]
    fn an_unknown_variable_is_named() {
        let line = r#"{"id":"a","question":"q","answer":"{nickname}您好，{price}元"}"#;
        let error = read("kb.jsonl", line.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("{price}") && error.contains("nickname"), "{error}");
    }

    #[test]
    fn a_table_words_the_answer_for_an_account() {
        let csv =
            "编号,问题,答案,答案@kf,适用客户\na,怎么退货,七天内可退。,七天。,会员|新客\nb,q,x,,\n";
        let entries = read("kb.csv", csv.as_bytes()).unwrap();
        let (kf, mp) = (AccountName("kf".into()), AccountName("mp".into()));
        assert_eq!(entries[0].answer_on(&kf), Some("七天。"));
        assert_eq!(entries[0].answer_on(&mp), Some("七天内可退。"));
        assert_eq!(entries[1].answer_on(&kf), Some("x"));
        assert_eq!(entries[0].audiences, [Audience::New, Audience::Vip].into());
    }

    #[test]
    fn a_table_says_what_a_text_is_for_and_what_it_cites() {
        let csv =
            "编号,问题,答案,文案性质,资质\na,周末有活动吗,有。,营销,licence.a|licence.b\nb,q,x,,\n";
        let entries = read("kb.csv", csv.as_bytes()).unwrap();
        assert_eq!((entries[0].nature, entries[1].nature), (Nature::Marketing, Nature::Service));
        let cited: Vec<_> = entries[0].qualifications.iter().map(QualificationId::as_str).collect();
        assert_eq!(cited, ["licence.a", "licence.b"]);
        let wrong = faults("kb.jsonl", r#"{"id":"a","question":"q","nature":"advert"}"#);
        assert_eq!(wrong, [(1, columns::NATURE)]);
    }

    #[test]
    fn export_reads_back_equal() {
        let line = r#"{"id":"a","question":"怎么退货","similar_questions":["退","想退"],"answer":"七天。","scene":"complaint","level":"secondary","parent":"b","tone":"urgent","domain":"finance","valid_from":"2026-01-01","valid_until":"2027-01-01T00:00:00Z","state":"pending","nature":"marketing","qualifications":["licence.b","licence.a"],"audiences":["vip","new"],"accounts":["mp","kf"],"wordings":{"kf":"{nickname}，七天。"}}"#;
        let entries = read("kb.jsonl", line.as_bytes()).unwrap();
        let mut jsonl = Vec::new();
        write_jsonl(&entries, &mut jsonl).unwrap();
        assert_eq!(read("kb.jsonl", &jsonl).unwrap(), entries);
        let mut csv = Vec::new();
        write_csv(&entries, &mut csv).unwrap();
        assert_eq!(read("kb.csv", &csv).unwrap(), entries);
    }
}
