//! A knowledge generation: entries, their phrasings as vectors and postings, and the search in them.

mod files;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::files::{
    check_fit, create_empty, read_entries, write_entries, write_text, write_vectors,
};
use crate::base::clock::UnixMs;
use crate::base::fault::Fault;
use crate::domain::evidence::{Evidence, Scores};
use crate::domain::knowledge::{Asker, EntryId, Validity, VersionedEntry};
use crate::search::SearchError;
use crate::search::adapter::Adapter;
use crate::search::bm25::Bm25Index;
use crate::search::dense::DenseIndex;
use crate::search::distance::dot;
use crate::search::flat::{add_scaled, normalise};
use crate::search::fuse;
use crate::search::manifest::{FORMAT, Manifest, VectorSpace, stamp_files};
use crate::search::near::{top_groups_above, top_k};
use crate::search::synonyms::Synonyms;
use crate::search::vectors::Matrix;

pub(super) const ENTRIES: &str = "entries.jsonl";
pub(super) const PHRASING_VECTORS: &str = "phrasings.vec";
pub(super) const ANSWER_VECTORS: &str = "answers.vec";
const PHRASING_TEXT: &str = "phrasings.tantivy";
const ANSWER_TEXT: &str = "answers.tantivy";

/// How many entries of each list are ranked when there are too many to rank all: an entry among the
/// best of the sum stands high in some list.
pub const POOL: usize = 100;

/// From this many phrasings (or answers) on a graph serves. `service_p50_ms` of `huida bench search
/// --vectors N --exact` was 0.26 ms for 5,000 of 384 columns and 1.2 ms for 10,000 on a Zen 3 core,
/// without `--exact` 0.25 and 0.27: the graph is faster from some thousands on, but the scan is exact
/// and costs no build, so it stays while it is done within about a millisecond.
const CROSSOVER: usize = 10_000;

/// A normalised text (compatibility forms, simplified, lower case) with its embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedded {
    pub text: String,
    pub vector: Vec<f32>,
}

/// What is indexed of one entry: its phrasings in the order of
/// [`Entry::phrasings`](crate::domain::knowledge::Entry::phrasings), and its answer if it has one.
#[derive(Clone, Debug, PartialEq)]
pub struct EntryTexts {
    pub phrasings: Vec<Embedded>,
    pub answer: Option<Embedded>,
}

/// What to leave out, so that an index can be asked about its own phrasings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exclude {
    #[default]
    None,
    /// One phrasing, by its number among all of the generation; an entry left without any is out.
    Phrasing(u32),
    /// A whole entry, by its ordinal.
    Entry(u32),
}

/// Classes of a trained head by name, and what it gives each of them.
pub type Votes<'a> = (&'a [String], &'a [f32]);

#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Normalised and [unified](KnowledgeIndex::unify) as the indexed texts were.
    pub text: &'a str,
    /// Embedding of the text in the generation's [`VectorSpace`].
    pub vector: &'a [f32],
    /// Most candidates to return.
    pub k: usize,
    pub exclude: Exclude,
    /// Entries outside their validity at this time are not found.
    pub now: UnixMs,
    /// Entries for other customers or other accounts are not found; `None`: those for anyone are.
    pub asker: Option<&'a Asker>,
    /// The trained head's probabilities.
    pub head: Option<Votes<'a>>,
    /// What labelled messages like this one add, where the head has such a vote.
    pub kin: Option<Votes<'a>>,
}

/// A found entry; an entry's score is that of its best phrasing, with what the other lists add.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Ordinal of the entry in the generation.
    pub entry: u32,
    /// The phrasing that matched best, by its number among all of the generation.
    pub phrasing: u32,
    pub scores: Scores,
}

/// An opened generation: read-only, to be shared between threads.
pub struct KnowledgeIndex {
    dir: PathBuf,
    manifest: Manifest,
    entries: Vec<VersionedEntry>,
    /// The entries' validity once more, close together for the scan.
    validity: Vec<Validity>,
    /// Whether an entry is for some customers or accounts only.
    bound: Vec<bool>,
    by_id: HashMap<EntryId, u32>,
    /// The number of each entry's first phrasing, and at the end the number of phrasings.
    starts: Vec<u32>,
    /// The entry of each phrasing.
    entry_of: Vec<u32>,
    /// Each entry's place among the answers.
    answer_of: Vec<Option<usize>>,
    /// The entry of each answer.
    entry_of_answer: Vec<u32>,
    /// For each entry the first that says the same, which may be itself.
    first_of: Vec<u32>,
    /// How many entries say what one before them says.
    repeated: usize,
    dense: DenseIndex,
    lexical: Bm25Index,
    /// The mean direction of each entry's phrasings.
    profiles: Matrix,
    answer_dense: DenseIndex,
    answer_lexical: Bm25Index,
    /// The index that this one is searched together with, if it is a part of its knowledge.
    whole: Option<Arc<KnowledgeIndex>>,
}

impl KnowledgeIndex {
    /// Writes a generation into the empty (or missing) directory `dir`; `texts` stand in the order
    /// of `entries`, unified by `synonyms`. Naming generations and switching to a new one is the
    /// caller's.
    ///
    /// # Errors
    /// [`SearchError::BadInput`] when the texts do not fit the entries, an entry is not published or
    /// named twice, or the directory is not empty.
    pub fn build(
        dir: &Path,
        entries: &[VersionedEntry],
        texts: &[EntryTexts],
        space: &VectorSpace,
        synonyms: &Synonyms,
    ) -> Result<Manifest, SearchError> {
        check_fit(entries, texts)?;
        create_empty(dir)?;
        let phrasings: Vec<&Embedded> = texts.iter().flat_map(|t| &t.phrasings).collect();
        let answers: Vec<&Embedded> = texts.iter().filter_map(|t| t.answer.as_ref()).collect();
        write_vectors(&dir.join(PHRASING_VECTORS), &phrasings, space.dim)?;
        Fault::BuiltPhrasingVectors.passes();
        write_text(&dir.join(PHRASING_TEXT), &phrasings)?;
        Fault::BuiltPhrasingText.passes();
        write_vectors(&dir.join(ANSWER_VECTORS), &answers, space.dim)?;
        Fault::BuiltAnswerVectors.passes();
        write_text(&dir.join(ANSWER_TEXT), &answers)?;
        Fault::BuiltAnswerText.passes();
        write_entries(&dir.join(ENTRIES), entries)?;
        Fault::BuiltEntries.passes();
        let files = stamp_files(dir)?;
        let manifest = Manifest {
            format: FORMAT,
            entries_digest: files.get(ENTRIES).map(|f| f.sha256.clone()).unwrap_or_default(),
            space: space.clone(),
            synonyms: synonyms.clone(),
            entries: entries.len(),
            phrasings: phrasings.len(),
            answers: answers.len(),
            files,
        };
        manifest.write(dir)?;
        Fault::BuiltIndex.passes();
        Ok(manifest)
    }

    /// Opens a generation after checking the digest of every file in it. It is searched exactly, and
    /// so the same every time, until [`KnowledgeIndex::grow`].
    pub fn open(dir: &Path) -> Result<Self, SearchError> {
        Self::open_with(dir, None, None)
    }

    /// As [`KnowledgeIndex::open`], with vectors as a trained map sees them.
    ///
    /// # Errors
    /// Also [`SearchError::BadInput`] for a map of vectors of another width.
    pub fn open_adapted(dir: &Path, adapter: Adapter) -> Result<Self, SearchError> {
        Self::open_with(dir, Some(Arc::new(adapter)), None)
    }

    /// Opens an index of few entries whose scores are to be compared with those of `whole`: centre
    /// of the vectors and rarity of the words are taken from there.
    pub fn open_beside(dir: &Path, whole: Arc<KnowledgeIndex>) -> Result<Self, SearchError> {
        Self::open_with(dir, None, Some(whole))
    }

    fn open_with(
        dir: &Path,
        adapter: Option<Arc<Adapter>>,
        whole: Option<Arc<KnowledgeIndex>>,
    ) -> Result<Self, SearchError> {
        let manifest = Manifest::verify(dir)?;
        let dim = manifest.space.dim;
        if let Some(other) = adapter.as_ref().map(|a| a.dim()).filter(|&width| width != dim) {
            return Err(SearchError::BadInput(format!("an adapter {other} wide for {dim}")));
        }
        let entries = read_entries(&dir.join(ENTRIES))?;
        let vectors = Matrix::read(&dir.join(PHRASING_VECTORS))?;
        let answers = Matrix::read(&dir.join(ANSWER_VECTORS))?;
        let lexical = Bm25Index::open(&dir.join(PHRASING_TEXT))?;
        let answer_lexical = Bm25Index::open(&dir.join(ANSWER_TEXT))?;
        let mut starts = vec![0_u32];
        let (mut entry_of, mut entry_of_answer) = (Vec::new(), Vec::new());
        let mut answer_of = Vec::with_capacity(entries.len());
        for (at, VersionedEntry { entry, .. }) in (0_u32..).zip(&entries) {
            entry_of.extend(entry.phrasings().map(|_| at));
            starts.push(u32::try_from(entry_of.len()).unwrap_or(u32::MAX));
            answer_of.push(entry.answer.as_ref().map(|_| entry_of_answer.len()));
            entry_of_answer.extend(entry.answer.as_ref().map(|_| at));
        }
        let (phrasings, answered) = (entry_of.len(), entry_of_answer.len());
        // Each file is what was built; this holds the builder itself to account.
        let agree = [vectors.len(), lexical.len(), manifest.phrasings] == [phrasings; 3]
            && [answers.len(), answer_lexical.len(), manifest.answers] == [answered; 3]
            && [vectors.dim(), answers.dim()] == [manifest.space.dim; 2];
        if !agree {
            return Err(SearchError::corrupt(dir, "its files disagree on what is in it"));
        }
        let by_id = entries.iter().map(|e| e.entry.id.clone()).zip(0..).collect();
        let validity = entries.iter().map(|e| e.entry.validity).collect();
        let bound =
            |e: &VersionedEntry| !e.entry.accounts.is_empty() || !e.entry.audiences.is_empty();
        let bound = entries.iter().map(bound).collect();
        let (dense, answer_dense) = match &whole {
            None => (
                DenseIndex::adapted(vectors, adapter.clone()),
                DenseIndex::adapted(answers, adapter),
            ),
            Some(whole) => (
                DenseIndex::beside(vectors, &whole.dense),
                DenseIndex::beside(answers, &whole.answer_dense),
            ),
        };
        let profiles = profiles(&dense, &starts);
        let first_of = first_to_say(&entries);
        let repeated = (0..).zip(&first_of).filter(|(at, first)| at != *first).count();
        let dir = dir.to_owned();
        Ok(Self {
            dir,
            manifest,
            entries,
            validity,
            bound,
            by_id,
            starts,
            entry_of,
            answer_of,
            entry_of_answer,
            first_of,
            repeated,
            dense,
            lexical,
            profiles,
            answer_dense,
            answer_lexical,
            whole,
        })
    }

    /// Builds graphs over very many vectors in the background, for a service that stays.
    pub fn grow(&self) {
        self.dense.grow(CROSSOVER);
        self.answer_dense.grow(CROSSOVER);
    }

    #[cfg(test)]
    pub(crate) fn grows(&self) -> bool {
        self.dense.grows() && self.answer_dense.grows()
    }

    /// Whether a trained map lies between its vectors and its lists.
    pub fn is_adapted(&self) -> bool {
        self.dense.flat().is_adapted()
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// A normalised text in the words of this generation, as questions must be embedded and asked.
    pub fn unify(&self, text: &str) -> String {
        self.manifest.synonyms.unify(text)
    }

    /// The entries by ordinal.
    pub fn entries(&self) -> &[VersionedEntry] {
        &self.entries
    }

    pub fn ordinal(&self, id: &EntryId) -> Option<u32> {
        self.by_id.get(id).copied()
    }

    /// Whether two entries give a customer the same answer, on any account.
    pub fn says_same(&self, one: u32, other: u32) -> bool {
        self.first_of.get(one as usize) == self.first_of.get(other as usize)
    }

    /// Whether the entry found is the one that answers, or says the same: of those only the best is
    /// found.
    pub fn answers(&self, found: &EntryId, answer: u32) -> bool {
        self.ordinal(found).is_some_and(|found| self.says_same(found, answer))
    }

    /// The numbers of an entry's phrasings, in the order of the entry; empty for no such entry.
    pub fn phrasings_of(&self, entry: u32) -> Range<u32> {
        let at = entry as usize;
        match (self.starts.get(at), self.starts.get(at + 1)) {
            (Some(&start), Some(&end)) => start..end,
            _ => 0..0,
        }
    }

    /// The vectors as they were embedded, by number of phrasing, read again from disk: training
    /// needs them, answering does not.
    pub fn phrasing_vectors(&self) -> Result<Matrix, SearchError> {
        Matrix::read(&self.dir.join(PHRASING_VECTORS))
    }

    /// Brings votes into the order of the entries. Classes that are no entry (out of scope, or taken
    /// out since the training) vote for nothing; entries unknown to the head get 0.
    fn votes(&self, (classes, given): Votes<'_>) -> Vec<f32> {
        let mut votes = vec![0.0; self.entries.len()];
        for (class, &vote) in classes.iter().zip(given) {
            // The id is looked up as it is stored; a class is nothing but such an id.
            if let Some(entry) = self.ordinal(&EntryId(class.clone())) {
                votes[entry as usize] = vote;
            }
        }
        votes
    }

    /// The best entries for the query, best first; equal ones stand in the order of the generation.
    /// `hidden` are not found, by ordinal: they have changed since the generation was built.
    ///
    /// # Errors
    /// [`SearchError::BadInput`] for a vector or votes of the wrong length; no text is an error.
    pub fn search(
        &self,
        query: &Query<'_>,
        hidden: &HashSet<u32>,
    ) -> Result<Vec<Candidate>, SearchError> {
        self.best(query, hidden, query.k)
    }

    /// The `most` best for a query that `query.k` are wanted of.
    fn best(
        &self,
        query: &Query<'_>,
        hidden: &HashSet<u32>,
        most: usize,
    ) -> Result<Vec<Candidate>, SearchError> {
        self.check(query)?;
        let lists = self.lists(query)?;
        let is_hidden = |entry: u32| !hidden.is_empty() && hidden.contains(&entry);
        let allowed = |entry: u32| self.is_allowed(entry, query) && !is_hidden(entry);
        let pool = self.pool(&lists, query, &allowed).into_iter().filter(|&entry| allowed(entry));
        let found: Vec<Candidate> =
            pool.filter_map(|entry| self.candidate(entry, &lists, query.exclude)).collect();
        let best = top_k((0..).zip(found.iter().map(|c| c.scores.fused)), most);
        Ok(best.into_iter().map(|(at, _)| found[at as usize]).collect())
    }

    /// As [`KnowledgeIndex::search`], but of entries that say the same only the best is there: it is
    /// one answer, and no reason to doubt which.
    pub fn search_answers(
        &self,
        query: &Query<'_>,
        hidden: &HashSet<u32>,
    ) -> Result<Vec<Candidate>, SearchError> {
        // So many may fall out; the pool of very many entries is no larger for it.
        let found = self.best(query, hidden, query.k.saturating_add(self.repeated))?;
        let mut said = HashSet::new();
        let once = found.into_iter().filter(|c| said.insert(self.first_of[c.entry as usize]));
        Ok(once.take(query.k).collect())
    }

    /// The candidate as evidence that stands by itself, in the words for an account.
    pub fn evidence(&self, candidate: &Candidate, asker: Option<&Asker>) -> Option<Evidence> {
        let VersionedEntry { version, entry } = self.entries.get(candidate.entry as usize)?;
        let start = self.phrasings_of(candidate.entry).start;
        let phrasing = entry.phrasings().nth(candidate.phrasing.checked_sub(start)? as usize)?;
        Some(Evidence {
            id: entry.id.clone(),
            version: *version,
            question: entry.question.clone(),
            answer: match asker {
                Some(asker) => entry.answer_on(&asker.account).map(str::to_owned),
                None => entry.answer.clone(),
            },
            scene: entry.scene,
            domain: entry.domain,
            qualifications: entry.qualifications.clone(),
            phrasing: phrasing.to_owned(),
            place: entry.place.clone(),
            scores: candidate.scores,
        })
    }

    fn check(&self, query: &Query<'_>) -> Result<(), SearchError> {
        let (dim, width) = (self.dense.dim(), query.vector.len());
        if width != dim {
            return Err(SearchError::BadInput(format!("a vector {width} wide asked of {dim}")));
        }
        for (classes, votes) in [query.head, query.kin].into_iter().flatten() {
            let (classes, votes) = (classes.len(), votes.len());
            if votes != classes {
                return Err(SearchError::BadInput(format!("{votes} votes for {classes} classes")));
            }
        }
        Ok(())
    }

    fn lists(&self, query: &Query<'_>) -> Result<Lists, SearchError> {
        let vector = self.dense.centred(query.vector);
        let whole = self.whole.as_deref().unwrap_or(self);
        // Of very many, only those that some list puts first are worth a cosine.
        let scanned = |dense: &DenseIndex| {
            let few = dense.len() < CROSSOVER;
            few.then(|| dense.scores(&vector)).flatten()
        };
        Ok(Lists {
            dense: scanned(&self.dense),
            lexical: self.lexical.scores(query.text, &whole.lexical)?,
            answer_dense: scanned(&self.answer_dense),
            answer_lexical: self.answer_lexical.scores(query.text, &whole.answer_lexical)?,
            head: query.head.map(|votes| self.votes(votes)),
            kin: query.kin.map(|votes| self.votes(votes)),
            vector,
        })
    }

    /// The entries to be ranked, in order: all of them, or of very many those that any list puts
    /// among its first [`POOL`] that are allowed.
    fn pool(&self, lists: &Lists, query: &Query<'_>, allowed: &dyn Fn(u32) -> bool) -> Vec<u32> {
        if lists.dense.is_some() && lists.answer_dense.is_some() {
            return (0..self.entries.len() as u32).collect();
        }
        let most = POOL.max(query.k);
        let allowed = |entry: u32| allowed(entry).then_some(entry);
        let phrased = |row: u32| {
            let left_out = query.exclude == Exclude::Phrasing(row);
            if left_out { None } else { allowed(self.entry_of[row as usize]) }
        };
        let answered = |row: u32| allowed(self.entry_of_answer[row as usize]);
        let near = |dense: &DenseIndex, scores: &Option<Vec<f32>>, group: &dyn Fn(u32) -> _| {
            match scores {
                Some(scores) => first(scores, f32::NEG_INFINITY, most, group),
                None => dense.nearest(&lists.vector, most, group),
            }
        };
        let mut pool = near(&self.dense, &lists.dense, &phrased);
        pool.extend(near(&self.answer_dense, &lists.answer_dense, &answered));
        pool.extend(first(&lists.lexical, 0.0, most, &phrased));
        pool.extend(first(&lists.answer_lexical, 0.0, most, &answered));
        for votes in [&lists.head, &lists.kin].into_iter().flatten() {
            pool.extend(first(votes, 0.0, most, &allowed));
        }
        let mut entries: Vec<u32> = pool.into_iter().map(|(entry, _)| entry).collect();
        entries.sort_unstable();
        entries.dedup();
        entries
    }

    /// Whether the query may find an entry at all.
    fn is_allowed(&self, entry: u32, query: &Query<'_>) -> bool {
        let at = entry as usize;
        query.exclude != Exclude::Entry(entry)
            && self.validity[at].contains(query.now)
            && (!self.bound[at] || query.asker.is_none_or(|a| self.entries[at].entry.is_for(a)))
    }

    /// Cosine of the query with a phrasing.
    fn dense_score(&self, phrasing: u32, lists: &Lists) -> f32 {
        let computed = || dot(&lists.vector, self.dense.row(phrasing as usize));
        lists.dense.as_ref().map_or_else(computed, |all| all[phrasing as usize])
    }

    /// Cosine of the query with an answer.
    fn answer_dense_score(&self, answer: usize, lists: &Lists) -> f32 {
        let computed = || dot(&lists.vector, self.answer_dense.row(answer));
        lists.answer_dense.as_ref().map_or_else(computed, |all| all[answer])
    }

    /// What the lists say of one entry; `None` when no phrasing of it is left.
    fn candidate(&self, entry: u32, lists: &Lists, exclude: Exclude) -> Option<Candidate> {
        let at = entry as usize;
        let left_out = match exclude {
            Exclude::None | Exclude::Entry(_) => None,
            Exclude::Phrasing(phrasing) => Some(phrasing),
        };
        let (mut dense, mut lexical) = (f32::NEG_INFINITY, 0.0_f32);
        let mut best: Option<(u32, f32)> = None;
        for phrasing in self.phrasings_of(entry).filter(|&p| Some(p) != left_out) {
            let d = self.dense_score(phrasing, lists);
            let l = lists.lexical[phrasing as usize];
            (dense, lexical) = (dense.max(d), lexical.max(l));
            let score = fuse::phrasing(d, l);
            if best.is_none_or(|(_, most)| score > most) {
                best = Some((phrasing, score));
            }
        }
        let (phrasing, _) = best?;
        let answer = self.answer_of[at];
        let mut scores = Scores {
            fused: 0.0,
            dense: Some(dense),
            lexical: (lexical > 0.0).then_some(lexical),
            head: lists.head.as_ref().map(|votes| votes[at]),
            profile: Some(self.profile(entry, left_out, lists)),
            answer_dense: answer.map(|a| self.answer_dense_score(a, lists)),
            answer_lexical: answer.map(|a| lists.answer_lexical[a]),
            kin: lists.kin.as_ref().map(|votes| votes[at]),
            reranked: None,
        };
        scores.fused = fuse::entry(&scores);
        Some(Candidate { entry, phrasing, scores })
    }

    /// Cosine with the mean of the entry's phrasings, without the one that is left out.
    fn profile(&self, entry: u32, left_out: Option<u32>, lists: &Lists) -> f32 {
        let phrasings = self.phrasings_of(entry);
        if let Some(gone) = left_out.filter(|p| phrasings.contains(p)) {
            let kept = phrasings.filter(|&p| p != gone);
            let mut profile = vec![0.0; self.dense.dim()];
            set_profile(&mut profile, &self.dense, kept);
            return dot(&profile, &lists.vector);
        }
        match phrasings.len() {
            1 => self.dense_score(phrasings.start, lists),
            _ => dot(self.profiles.row(entry as usize), &lists.vector),
        }
    }
}

/// Scores of every phrasing and every answer and votes for every entry, for one query; cosines of
/// very many are computed where they are wanted.
struct Lists {
    /// The query's vector, centred.
    vector: Vec<f32>,
    dense: Option<Vec<f32>>,
    lexical: Vec<f32>,
    answer_dense: Option<Vec<f32>>,
    answer_lexical: Vec<f32>,
    head: Option<Vec<f32>>,
    kin: Option<Vec<f32>>,
}

/// The best groups by their scores above `least`.
fn first(
    scores: &[f32],
    least: f32,
    most: usize,
    group: &dyn Fn(u32) -> Option<u32>,
) -> Vec<(u32, f32)> {
    top_groups_above(scores, least, most, group)
}

/// The mean direction of some phrasings.
fn set_profile(to: &mut [f32], dense: &DenseIndex, phrasings: impl Iterator<Item = u32>) {
    phrasings.for_each(|p| add_scaled(to, dense.row(p as usize), 1.0));
    normalise(to);
}

fn profiles(dense: &DenseIndex, starts: &[u32]) -> Matrix {
    let mut profiles = Matrix::zeros(dense.dim(), starts.len() - 1);
    for (row, of) in profiles.rows_mut().zip(starts.windows(2)) {
        set_profile(row, dense, of[0]..of[1]);
    }
    profiles
}

/// For each entry the first with the same answer, on every account; one without an answer says only
/// what itself says.
fn first_to_say(entries: &[VersionedEntry]) -> Vec<u32> {
    let mut first = HashMap::new();
    let mut all = Vec::with_capacity(entries.len());
    for (at, VersionedEntry { entry, .. }) in (0_u32..).zip(entries) {
        let said = entry.answer.as_deref().map(|answer| (answer.trim(), &entry.wordings));
        all.push(said.map_or(at, |said| *first.entry(said).or_insert(at)));
    }
    all
}

#[cfg(test)]
mod tests;
