//! Lexical scores: BM25 over characters, character pairs, their sounds and words in an inverted index
//! on disk.
//!
//! Customers choose the wrong one of characters that sound alike; `pinyin` is a table of sounds and
//! nothing else. In a trial beside this code, on a bank's FAQ (3172 customer questions), this list alone put the right entry first
//! for .701 without sounds, .707 with those of characters and pairs, .692 with those of pairs alone;
//! where every sixth character was exchanged for one that sounds alike, for .648, .689 and .671.
//!
//! Postings are read term by term and scored with the index's own BM25 weights. There is no query
//! language in between: quotes and operators in a message are punctuation and nothing else.

use std::path::Path;
use std::sync::Arc;

use pinyin::{Pinyin, ToPinyin};
use tantivy::fieldnorm::FieldNormReader;
use tantivy::index::{IndexBuilder, InvertedIndexReader, SegmentReader};
use tantivy::postings::TermInfo;
use tantivy::query::Bm25Weight;
use tantivy::schema::{Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::tokenizer::{PreTokenizedString, Token};
use tantivy::{Index, SingleSegmentIndexWriter, TantivyDocument, Term, directory};

use crate::base::numerals;
use crate::base::text::is_han;
use crate::base::words;
use crate::search::SearchError;

const FIELD: &str = "text";
/// First size of the writer's term table, bytes; it grows when needed.
const WRITER_BYTES: usize = 15_000_000;

/// An opened index: one segment whose document numbers are the order of writing.
pub(super) struct Bm25Index {
    field: Field,
    postings: Arc<InvertedIndexReader>,
    norms: FieldNormReader,
    docs: u32,
    mean_length: f32,
}

impl Bm25Index {
    /// Writes the index of `texts` into the empty directory `dir`.
    ///
    /// Tantivy's single-segment writer is used because it starts no thread, takes no lock file and
    /// numbers documents in the order given.
    pub(super) fn write<'a>(
        dir: &Path,
        texts: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), SearchError> {
        let (schema, field) = schema();
        let directory = open_directory(dir)?;
        let mut writer: SingleSegmentIndexWriter = IndexBuilder::new()
            .schema(schema)
            .single_segment_index_writer(directory, WRITER_BYTES)?;
        for text in texts {
            let tokens = terms(text).into_iter().enumerate().map(|(position, text)| Token {
                position,
                text,
                ..Token::default()
            });
            let tokens = PreTokenizedString { text: String::new(), tokens: tokens.collect() };
            let mut document = TantivyDocument::new();
            document.add_pre_tokenized_text(field, tokens);
            writer.add_document(document)?;
        }
        writer.finalize()?;
        Ok(())
    }

    /// Opens what [`Bm25Index::write`] wrote; the files' digests are the caller's to check.
    pub(super) fn open(dir: &Path) -> Result<Self, SearchError> {
        let (expected, field) = schema();
        let index = Index::open(open_directory(dir)?)?;
        if index.schema() != expected {
            return Err(SearchError::incompatible(dir, "another schema"));
        }
        let segments = index.searchable_segments()?;
        let [segment] = segments.as_slice() else {
            return Err(SearchError::corrupt(dir, "not exactly one segment"));
        };
        let reader = SegmentReader::open(segment)?;
        let postings = reader.inverted_index(field)?;
        let docs = reader.max_doc();
        let mean_length = postings.total_num_tokens() as f32 / docs.max(1) as f32;
        Ok(Self { field, postings, norms: reader.get_fieldnorms_reader(field)?, docs, mean_length })
    }

    /// Number of documents.
    pub(super) fn len(&self) -> usize {
        self.docs as usize
    }

    /// BM25 of every document divided by the score that the query itself would get as a document:
    /// 0 where nothing is shared, about 1 where all is. A query without terms scores 0 everywhere.
    ///
    /// How rare a term is and how long a text usually is are taken from `corpus`, which is this index
    /// itself unless it holds a few texts that belong to a large one.
    pub(super) fn scores(&self, query: &str, corpus: &Self) -> Result<Vec<f32>, SearchError> {
        let mut scores = vec![0.0_f32; self.len()];
        let mut counts = terms(query);
        let own_norm = FieldNormReader::fieldnorm_to_id(counts.len() as u32);
        counts.sort_unstable();
        let mut own_score = 0.0_f32;
        for same in counts.chunk_by(|a, b| a == b) {
            let term = Term::from_field_text(self.field, &same[0]);
            let info = self.term(&term)?;
            let known =
                if std::ptr::eq(self, corpus) { info.clone() } else { corpus.term(&term)? };
            let weight = Bm25Weight::for_one_term_without_explain(
                known.map_or(0, |i| u64::from(i.doc_freq)),
                u64::from(corpus.docs),
                corpus.mean_length,
            );
            own_score += weight.score(own_norm, same.len() as u32);
            let Some(info) = info else { continue };
            let mut postings = self
                .postings
                .read_block_postings_from_terminfo(&info, IndexRecordOption::WithFreqs)
                .map_err(tantivy::TantivyError::from)?;
            // Block by block: a common character is in most of very many texts.
            while postings.block_len() > 0 {
                for (&doc, &count) in postings.docs().iter().zip(postings.freqs()) {
                    scores[doc as usize] += weight.score(self.norms.fieldnorm_id(doc), count);
                }
                postings.advance();
            }
        }
        if own_score > 0.0 {
            scores.iter_mut().for_each(|s| *s /= own_score);
        }
        Ok(scores)
    }

    fn term(&self, term: &Term) -> Result<Option<TermInfo>, SearchError> {
        Ok(self.postings.get_term_info(term).map_err(tantivy::TantivyError::from)?)
    }
}

fn schema() -> (Schema, Field) {
    // Positions are never asked for; the tokenizer is never called, since texts come tokenised.
    let indexing = TextFieldIndexing::default()
        .set_tokenizer("raw")
        .set_index_option(IndexRecordOption::WithFreqs);
    let mut builder = Schema::builder();
    let field =
        builder.add_text_field(FIELD, TextOptions::default().set_indexing_options(indexing));
    (builder.build(), field)
}

fn open_directory(dir: &Path) -> Result<directory::MmapDirectory, SearchError> {
    directory::MmapDirectory::open(dir).map_err(|e| tantivy::TantivyError::from(e).into())
}

/// What a text is matched by, repetitions included: each Han character, each pair of neighbouring
/// Han characters, each word of two or more Han characters as jieba cuts it (marked, so that the
/// word 退款 and the pair 退款 count separately), the sounds of each character and pair, and each run
/// of other letters and digits. A numeral with Chinese characters is also there in digits.
pub(super) fn terms(text: &str) -> Vec<String> {
    let mut terms = Vec::new();
    for run in runs(text) {
        if !run.starts_with(is_han) {
            terms.push(run.to_owned());
            continue;
        }
        let starts: Vec<usize> = run.char_indices().map(|(at, _)| at).chain([run.len()]).collect();
        terms.extend(starts.windows(2).map(|w| run[w[0]..w[1]].to_owned()));
        terms.extend(starts.windows(3).map(|w| run[w[0]..w[2]].to_owned()));
        let words = words::cut(run).into_iter();
        terms.extend(words.filter(|w| w.chars().nth(1).is_some()).map(|w| format!("w:{w}")));
        terms.extend(sounds(run));
    }
    terms.extend(chinese_numerals(text));
    terms
}

/// How each character of a run sounds, and each pair, without tones: 微粒待 as 微粒贷.
fn sounds(run: &str) -> Vec<String> {
    // One reading for each character, the same in question and knowledge.
    let plain: Vec<Option<&str>> = run.to_pinyin().map(|s| s.map(Pinyin::plain)).collect();
    let alone = plain.iter().flatten().map(|sound| format!("p:{sound}"));
    let pairs = plain.windows(2).filter_map(|pair| Some(format!("p:{} {}", pair[0]?, pair[1]?)));
    alone.chain(pairs).collect()
}

/// Numerals with at least one Chinese character, in digits: 三十 and 2万 as 30 and 20000. A single
/// character is none: 一 is mostly part of a word.
fn chinese_numerals(text: &str) -> impl Iterator<Item = String> {
    let part = |c: char| c.is_ascii_digit() || c == '.' || numerals::is_chinese_numeral(c);
    let runs = text.split(move |c| !part(c)).map(|run| run.trim_matches('.'));
    runs.filter(|run| run.chars().nth(1).is_some() && run.chars().any(is_han))
        .filter_map(numerals::canonical)
}

/// Maximal stretches of Han characters, or of other letters and digits; the rest separates.
fn runs(text: &str) -> impl Iterator<Item = &str> {
    #[derive(PartialEq)]
    enum Kind {
        Han,
        Other,
        Separator,
    }
    let kind = |c: char| {
        if is_han(c) {
            Kind::Han
        } else if c.is_alphanumeric() {
            Kind::Other
        } else {
            Kind::Separator
        }
    };
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|c| kind(c) == Kind::Separator);
        let first = kind(rest.chars().next()?);
        let end = rest.find(|c| kind(c) != first).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        rest = after;
        Some(run)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use proptest::prelude::*;

    fn index(texts: &[&str]) -> Bm25Index {
        let dir = tempfile::tempdir().unwrap();
        Bm25Index::write(dir.path(), texts.iter().copied()).unwrap();
        Bm25Index::open(dir.path()).unwrap()
    }

    #[test]
    fn cuts_both_scripts() {
        let sounds = ["p:tui", "p:kuan", "p:tui kuan"];
        let written = ["退", "款", "退款", "w:退款"];
        let rest = ["app", "3", "天", "p:tian"];
        assert_eq!(terms("退款app 3天?"), [&written[..], &sounds[..], &rest[..]].concat());
        assert_eq!(terms(" \"()!？ "), Vec::<String>::new());
    }

    #[test]
    fn the_same_text_scores_one_and_a_stranger_none() {
        let index = index(&["怎么申请退款", "发票抬头写错了", "快递几天能到"]);
        let scores = index.scores("怎么申请退款", &index).unwrap();
        assert!((scores[0] - 1.0).abs() < 1e-5, "{scores:?}");
        assert_eq!(scores[1], 0.0);
        assert!(index.scores("退款怎么还没到", &index).unwrap()[0] > 0.2);
    }

    #[test]
    fn what_sounds_alike_matches() {
        let index = index(&["怎么关闭微粒贷", "怎么提高额度"]);
        let heard = index.scores("微粒待", &index).unwrap();
        assert!(heard[0] > 0.3 && heard[1] == 0.0, "{heard:?}");
        assert!(index.scores("微粒贷", &index).unwrap()[0] > heard[0]);
    }

    #[test]
    fn numerals_match_by_value() {
        let pairs = [("借三十天", "借30天"), ("能贷2万吗", "能贷20000吗")];
        for (chinese, digits) in pairs {
            let number = |text| terms(text).into_iter().rfind(|t| t.parse::<u32>().is_ok());
            assert_eq!(number(chinese), number(digits), "{chinese}");
        }
        assert!(!terms("一直没到账").contains(&"1".to_owned()));
    }

    #[test]
    fn operators_are_only_punctuation() {
        let index = index(&["怎么申请退款", "发票抬头写错了"]);
        let plain = index.scores("退款", &index).unwrap();
        assert!(plain[0] > 0.3);
        assert_eq!(index.scores("\"+退款~* []{}:", &index).unwrap(), plain);
        // What looks like a field or an operator is a word of its own that nobody wrote.
        let words = index.scores("退款 AND text:/.*/", &index).unwrap();
        assert!(words[0] > 0.0 && words[0] < plain[0] && words[1] == 0.0);
    }

    #[test]
    fn nothing_to_match_matches_nothing() {
        let empty = index(&[]);
        assert_eq!((empty.len(), empty.scores("退款", &empty).unwrap().len()), (0, 0));
        let blank = index(&["", "退款"]);
        assert_eq!(blank.scores("", &blank).unwrap(), [0.0, 0.0]);
        assert!(blank.scores("退", &blank).unwrap()[1] > 0.0);
    }

    proptest! {
        #[test]
        fn any_query_scores_between_zero_and_about_one(query in ".{0,60}") {
            static INDEX: LazyLock<Bm25Index> =
                LazyLock::new(|| index(&["怎么申请退款", "app打不开", "ａ", "快递几天能到"]));
            let scores = INDEX.scores(&query, &INDEX).unwrap();
            prop_assert!(scores.iter().all(|s| (0.0..3.0).contains(s)), "{:?}", scores);
        }
    }
}
