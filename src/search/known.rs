//! Vectors of texts that were embedded before: those of a built generation, whatever else of it can
//! still be read, and those of a build that was interrupted.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::base::digest::FileStamp;
use crate::search::SearchError;
use crate::search::frame;
use crate::search::index::{ANSWER_VECTORS, ENTRIES, PHRASING_VECTORS};
use crate::search::manifest::{self, VectorSpace, check_files};
use crate::search::synonyms::Synonyms;
use crate::search::vectors::Matrix;

/// A text as it was given to the embedder, by its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TextKey([u8; 16]);

impl TextKey {
    pub fn of(text: &str) -> Self {
        Self(shortened(&Sha256::digest(text)))
    }
}

fn shortened<const N: usize>(digest: &[u8]) -> [u8; N] {
    let mut short = [0; N];
    short.iter_mut().zip(digest).for_each(|(to, from)| *to = *from);
    short
}

/// The vectors of a generation.
pub struct KnownVectors {
    /// Which of the matrices, and the row.
    rows: HashMap<TextKey, (usize, usize)>,
    matrices: [Matrix; 2],
}

/// What a manifest of any format says of its vectors.
#[derive(Deserialize)]
struct Made {
    space: VectorSpace,
    #[serde(default)]
    synonyms: Synonyms,
    files: BTreeMap<String, FileStamp>,
}

/// What an entry of any format was embedded as.
#[derive(Deserialize)]
struct Texts {
    question: String,
    #[serde(default)]
    similar_questions: Vec<String>,
    #[serde(default)]
    answer: Option<String>,
}

impl KnownVectors {
    /// Of the generation in `dir`: whatever can serve of it today, its vectors mean the same if they
    /// are of this `space` and, as the texts that they are of, byte for byte what was built.
    /// `normalise` is what is done to an operator's text before its synonyms are unified.
    ///
    /// # Errors
    /// Whatever keeps the vectors from being used; nothing that anybody could mend.
    pub fn read(
        dir: &Path,
        space: &VectorSpace,
        normalise: &dyn Fn(&str) -> String,
    ) -> Result<Self, SearchError> {
        let path = dir.join(manifest::NAME);
        let text = fs::read(&path).map_err(SearchError::io(&path))?;
        let Made { space: made_in, synonyms, files } = serde_json::from_slice(&text)
            .map_err(|e| SearchError::corrupt(&path, e.to_string()))?;
        if made_in != *space {
            return Err(SearchError::incompatible(&path, "is of another embedder"));
        }
        let needed = [ENTRIES, PHRASING_VECTORS, ANSWER_VECTORS];
        let stamps = needed.iter().filter_map(|name| Some((*name, files.get(*name)?)));
        let stamps: Vec<_> = stamps.collect();
        if stamps.len() < needed.len() {
            return Err(SearchError::incompatible(&path, "names no vectors"));
        }
        check_files(dir, stamps)?;
        let matrices =
            [Matrix::read(&dir.join(PHRASING_VECTORS))?, Matrix::read(&dir.join(ANSWER_VECTORS))?];
        let embedded = |text: &str| TextKey::of(&synonyms.unify(&normalise(text)));
        let keys = keys(&dir.join(ENTRIES), &embedded)?;
        let fit = |(of, keys): (usize, &Vec<TextKey>)| {
            matrices[of].len() == keys.len() && matrices[of].dim() == space.dim
        };
        if !keys.iter().enumerate().all(fit) {
            return Err(SearchError::corrupt(dir, "its vectors are not those of its texts"));
        }
        let numbered = keys.into_iter().enumerate();
        let rows =
            numbered.flat_map(|(of, keys)| keys.into_iter().zip((0..).map(move |r| (of, r))));
        Ok(Self { rows: rows.collect(), matrices })
    }

    pub fn get(&self, key: TextKey) -> Option<&[f32]> {
        self.rows.get(&key).map(|&(of, row)| self.matrices[of].row(row))
    }
}

/// Of the phrasings and of the answers, each in the order of their vectors.
fn keys(path: &Path, embedded: &dyn Fn(&str) -> TextKey) -> Result<[Vec<TextKey>; 2], SearchError> {
    let text = fs::read_to_string(path).map_err(SearchError::io(path))?;
    let (mut phrasings, mut answers) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let Texts { question, similar_questions, answer } =
            serde_json::from_str(line).map_err(|e| SearchError::corrupt(path, e.to_string()))?;
        phrasings.push(embedded(&question));
        phrasings.extend(similar_questions.iter().map(|similar| embedded(similar)));
        answers.extend(answer.as_deref().map(embedded));
    }
    Ok([phrasings, answers])
}

/// Bytes at the end of each record of a journal, which hold it to account.
const CHECK: usize = 8;

/// A file that grows while texts are embedded, so that a build that is killed need not embed them
/// again. A record is a [`TextKey`], the floats and the beginning of the SHA-256 of both after the
/// space that they are in: what is torn, or of another embedder, is no record.
pub struct Journal {
    file: File,
    /// Has read the space.
    salt: Sha256,
}

impl Journal {
    /// Opens the journal, which need not be there, and tells what it holds. From the first record on
    /// that is none, it is cut.
    pub fn open(
        path: &Path,
        space: &VectorSpace,
    ) -> Result<(Self, HashMap<TextKey, Vec<f32>>), SearchError> {
        let salt =
            Sha256::new_with_prefix(format!("1 {} {} {}", space.model, space.sha256, space.dim));
        let opened = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let mut journal = Self { file: opened.map_err(SearchError::io(path))?, salt };
        let vectors = journal.read(space.dim).map_err(SearchError::io(path))?;
        Ok((journal, vectors))
    }

    fn read(&mut self, dim: usize) -> io::Result<HashMap<TextKey, Vec<f32>>> {
        let mut vectors = HashMap::new();
        let mut record = vec![0; size_of::<TextKey>() + 4 * dim + CHECK];
        let mut whole = 0;
        let mut reader = BufReader::new(&self.file);
        while fill(&mut reader, &mut record)? {
            let Some((key, vector)) = opened(&self.salt, &record) else { break };
            vectors.insert(key, vector);
            whole += record.len() as u64;
        }
        self.file.set_len(whole)?;
        self.file.seek(SeekFrom::Start(whole))?;
        Ok(vectors)
    }

    /// Keeps some more; of a process that is killed meanwhile, those before.
    pub fn append<'a>(
        &mut self,
        vectors: impl IntoIterator<Item = (TextKey, &'a [f32])>,
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (key, vector) in vectors {
            let start = bytes.len();
            bytes.extend_from_slice(&key.0);
            frame::put_floats(&mut bytes, vector);
            let check = check(&self.salt, &bytes[start..]);
            bytes.extend_from_slice(&check);
        }
        self.file.write_all(&bytes)
    }
}

/// Whether the reader had enough for all of `record`.
fn fill(reader: &mut impl Read, record: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(record) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| true),
    }
}

fn opened(salt: &Sha256, record: &[u8]) -> Option<(TextKey, Vec<f32>)> {
    let (content, given) = record.split_at_checked(record.len().checked_sub(CHECK)?)?;
    if check(salt, content) != given {
        return None;
    }
    let (key, floats) = content.split_first_chunk()?;
    Some((TextKey(*key), frame::floats(floats)?))
}

fn check(salt: &Sha256, content: &[u8]) -> [u8; CHECK] {
    shortened(&salt.clone().chain_update(content).finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::knowledge::{Entry, EntryId, VersionedEntry};
    use crate::search::index::{Embedded, EntryTexts, KnowledgeIndex};
    use proptest::prelude::*;

    fn space() -> VectorSpace {
        VectorSpace { model: "synthetic".into(), sha256: "00".into(), dim: 2 }
    }

    /// Two entries, one with two phrasings and an answer; every text has its own vector.
    fn generation() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let entry = |id: &str, similar: &[&str], answer: Option<&str>| Entry {
            similar_questions: similar.iter().map(ToString::to_string).collect(),
            answer: answer.map(str::to_owned),
            ..Entry::new(EntryId(id.into()), id.to_uppercase())
        };
        let entries = [entry("a", &["退钱"], Some("三天")), entry("b", &[], None)];
        let entries = entries.map(|entry| VersionedEntry { version: 1, entry });
        let embedded = |text: &str, x: f32| Embedded { text: text.into(), vector: vec![x, 1.0] };
        let texts = [
            EntryTexts {
                phrasings: vec![embedded("a", 1.0), embedded("退款", 2.0)],
                answer: Some(embedded("三天", 3.0)),
            },
            EntryTexts { phrasings: vec![embedded("b", 4.0)], answer: None },
        ];
        let synonyms = Synonyms::new(vec![vec!["退款".into(), "退钱".into()]]).unwrap();
        KnowledgeIndex::build(dir.path(), &entries, &texts, &space(), &synonyms).unwrap();
        dir
    }

    fn read(dir: &Path, space: &VectorSpace) -> Result<KnownVectors, SearchError> {
        KnownVectors::read(dir, space, &str::to_lowercase)
    }

    #[test]
    fn a_generation_knows_its_texts_as_they_were_embedded() {
        let dir = generation();
        let known = read(dir.path(), &space()).unwrap();
        let first = |text: &str| known.get(TextKey::of(text)).map(|v| v[0]);
        assert_eq!(["a", "退款", "三天", "b"].map(first), [1.0, 2.0, 3.0, 4.0].map(Some));
        assert_eq!(["A", "退钱", "c"].map(first), [None; 3]);
        let other = VectorSpace { sha256: "01".into(), ..space() };
        assert!(matches!(read(dir.path(), &other), Err(SearchError::Incompatible { .. })));
    }

    #[test]
    fn what_else_a_generation_holds_does_not_matter() {
        let dir = generation();
        let manifest = dir.path().join(manifest::NAME);
        let text = fs::read_to_string(&manifest).unwrap();
        fs::write(&manifest, text.replace("\"format\": ", "\"format\": 9")).unwrap();
        fs::remove_dir_all(dir.path().join("phrasings.tantivy")).unwrap();
        assert!(KnowledgeIndex::open(dir.path()).is_err());
        assert!(read(dir.path(), &space()).is_ok());
        let vectors = dir.path().join(PHRASING_VECTORS);
        let mut bytes = fs::read(&vectors).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&vectors, bytes).unwrap();
        assert!(matches!(read(dir.path(), &space()), Err(SearchError::Corrupt { .. })));
    }

    fn journal(path: &Path) -> (Journal, HashMap<TextKey, Vec<f32>>) {
        Journal::open(path, &space()).unwrap()
    }

    /// Some records, with the length of one.
    fn written(path: &Path) -> usize {
        let (mut journal, empty) = journal(path);
        assert!(empty.is_empty());
        let rows = [("a", [1.0, 0.5]), ("b", [2.0, 0.5]), ("c", [3.0, 0.5])];
        for (text, vector) in &rows {
            journal.append([(TextKey::of(text), vector.as_slice())]).unwrap();
        }
        fs::metadata(path).unwrap().len() as usize / rows.len()
    }

    #[test]
    fn a_journal_goes_on_where_it_was_torn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let record = written(&path);
        File::options().write(true).open(&path).unwrap().set_len(2 * record as u64 + 5).unwrap();
        let (mut torn, held) = journal(&path);
        assert_eq!((held.len(), held[&TextKey::of("b")].as_slice()), (2, &[2.0, 0.5][..]));
        torn.append([(TextKey::of("d"), &[4.0, 0.5][..])]).unwrap();
        let (_, held) = journal(&path);
        assert_eq!((held.len(), held[&TextKey::of("d")].as_slice()), (3, &[4.0, 0.5][..]));
    }

    #[test]
    fn another_embedder_takes_nothing_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        written(&path);
        let other = VectorSpace { sha256: "01".into(), ..space() };
        assert!(Journal::open(&path, &other).unwrap().1.is_empty());
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    }

    proptest! {
        #[test]
        fn what_is_altered_is_not_taken(at in 0_usize..96, flip in 1_u8..) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("journal");
            let record = written(&path);
            let mut bytes = fs::read(&path).unwrap();
            prop_assert_eq!(bytes.len(), 96);
            bytes[at] ^= flip;
            fs::write(&path, bytes).unwrap();
            prop_assert_eq!(journal(&path).1.len(), at / record);
        }
    }
}
