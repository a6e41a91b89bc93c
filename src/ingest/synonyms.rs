//! An operator's synonyms: a CSV file without a header, each line a group of words that mean the same,
//! the one to read them as first.

use std::path::Path;

use super::rows::read_text;
use super::{IngestError, RowError};
use crate::search::synonyms::{Conflict, Synonyms};
use crate::understand::normalize::normalize;

/// Reads the groups; empty cells, empty lines and lines that begin with `#` say nothing.
///
/// # Errors
/// [`IngestError::BadRows`] names the line of a group that cannot be meant.
pub fn read_synonyms(path: &Path) -> Result<Synonyms, IngestError> {
    let text = read_text(path)?;
    let (mut groups, mut lines) = (Vec::new(), Vec::new());
    let told = |line: &&str| !line.trim().is_empty() && !line.starts_with('#');
    for (number, line) in (1_u64..).zip(text.lines()).filter(|(_, line)| told(line)) {
        let words = words(line).map_err(|e| IngestError::file(path, format!("{number}: {e}")))?;
        if !words.is_empty() {
            groups.push(words);
            lines.push(number);
        }
    }
    Synonyms::new(groups).map_err(|Conflict { group, reason }| {
        let line = lines.get(group).copied().unwrap_or(0);
        IngestError::BadRows(vec![RowError::new(path, line, "synonyms", reason)])
    })
}

/// The cells of a line, as texts are compared.
fn words(line: &str) -> Result<Vec<String>, csv::Error> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(line.as_bytes());
    let Some(record) = reader.records().next().transpose()? else { return Ok(Vec::new()) };
    Ok(record.iter().map(normalize).filter(|word| !word.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Synonyms, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("synonyms.csv");
        std::fs::write(&path, bytes).unwrap();
        read_synonyms(&path).map_err(|e| e.to_string())
    }

    #[test]
    fn reads_groups_as_a_spreadsheet_writes_them() {
        let text = "# 店里的说法\n退款,退钱,\n\n会员, ＶＩＰ ,,\n";
        let list = read(text.as_bytes()).unwrap();
        assert_eq!((list.len(), list.unify("vip退钱").as_str()), (2, "会员退款"));
        let (gb, _, _) = encoding_rs::GB18030.encode(text);
        assert_eq!(read(&gb).unwrap(), list);
        assert!(read("# 还没有\n".as_bytes()).unwrap().is_empty());
    }

    #[test]
    fn names_the_line_of_a_conflict() {
        let fault = |text: &str| read(text.as_bytes()).unwrap_err();
        assert!(fault("退款,退钱\n\n会员\n").contains("synonyms.csv:3: synonyms: a group needs"));
        let twice = fault("退款,退钱\n还款,ＡＰＰ\n软件,app\n");
        assert!(twice.contains(":3: synonyms: \"app\" is in the group of \"还款\""), "{twice}");
    }
}
