//! The embedder, and where vectors lie that it need not compute again: in earlier generations, and in
//! what an interrupted build left behind.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use crate::base::fault::Fault;
use crate::engine::embed::EmbedWorker;
use crate::model::Control;
use crate::pipeline::fit::FitError;
use crate::search::SearchError;
use crate::search::known::{Journal, KnownVectors, TextKey};
use crate::search::manifest::VectorSpace;
use crate::understand::normalize::normalize;

/// Texts that are embedded between two writes to the journal: a few seconds' work.
const KEPT_AT_ONCE: usize = 2_048;

type Vectors = HashMap<TextKey, Vec<f32>>;

/// Gives texts their vectors.
pub struct Embedding<'a> {
    embedder: &'a EmbedWorker,
    /// Folders of generations, which are looked into in turn while vectors are wanted.
    earlier: Vec<PathBuf>,
    /// With what it held and was not asked for yet.
    journal: Option<(Journal, Vectors)>,
}

impl<'a> Embedding<'a> {
    /// Computes what is in none of these folders of generations.
    pub fn new(embedder: &'a EmbedWorker, earlier: Vec<PathBuf>) -> Self {
        Self { embedder, earlier, journal: None }
    }

    /// Also takes what the journal holds, and writes there what it computes.
    pub fn resuming(self, journal: &Path) -> Result<Self, SearchError> {
        let journal = Some(Journal::open(journal, &self.space())?);
        Ok(Self { journal, ..self })
    }

    pub fn embedder(&self) -> &'a EmbedWorker {
        self.embedder
    }

    /// Where the embedder's vectors mean something.
    pub fn space(&self) -> VectorSpace {
        let identity = self.embedder.identity();
        VectorSpace {
            model: identity.name.clone(),
            sha256: identity.sha256.clone(),
            dim: self.embedder.dim(),
        }
    }

    /// One vector per text, in order; equal texts are embedded once. `progress` is told how many
    /// are done of how many that must be computed.
    pub fn vectors(
        &mut self,
        texts: &[String],
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<Vec<f32>>, FitError> {
        let keys: Vec<TextKey> = texts.iter().map(|text| TextKey::of(text)).collect();
        let mut found = self.found(&keys);
        let mut wanted = HashSet::new();
        let mut is_new = |key: &TextKey| !found.contains_key(key) && wanted.insert(*key);
        let fresh = keys.iter().zip(texts).filter(|(key, _)| is_new(key));
        let fresh: Vec<String> = fresh.map(|(_, text)| text.clone()).collect();
        self.compute(&fresh, &mut found, progress)?;
        Ok(keys.iter().filter_map(|key| found.get(key).cloned()).collect())
    }

    /// What need not be computed.
    fn found(&mut self, keys: &[TextKey]) -> Vectors {
        let held = self.journal.as_mut().map(|(_, held)| std::mem::take(held));
        let mut found = held.unwrap_or_default();
        for folder in &self.earlier {
            let missing = keys.iter().filter(|key| !found.contains_key(key));
            let missing: Vec<TextKey> = missing.copied().collect();
            if missing.is_empty() {
                break;
            }
            match KnownVectors::read(folder, &self.space(), &normalize) {
                Ok(known) => {
                    let here = missing.iter().filter_map(|k| Some((*k, known.get(*k)?.to_vec())));
                    found.extend(here);
                }
                // They are computed instead.
                Err(error) => tracing::debug!(%error, "vectors cannot be used again"),
            }
        }
        found
    }

    fn compute(
        &mut self,
        texts: &[String],
        into: &mut Vectors,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<(), FitError> {
        for (batch, texts_before) in texts.chunks(KEPT_AT_ONCE).zip((0..).step_by(KEPT_AT_ONCE)) {
            let vectors = self.embedder.embed(batch, &Control::default(), &mut |done, _| {
                progress(texts_before + done, texts.len());
            })?;
            let keys: Vec<TextKey> = batch.iter().map(|text| TextKey::of(text)).collect();
            if let Some((journal, _)) = &mut self.journal {
                let kept = keys.iter().copied().zip(vectors.iter().map(Vec::as_slice));
                journal.append(kept)?;
                Fault::EmbeddedSome.passes();
            }
            into.extend(keys.into_iter().zip(vectors));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::model::{Embedder, ModelError, ModelIdentity};
    use crate::pipeline::generation::testing::{QUESTIONS, answer_to, model, write};

    /// A vector is a text's length; remembers how many it computed, and gives up after some.
    struct Fake {
        identity: ModelIdentity,
        computed: Mutex<usize>,
        most: AtomicUsize,
    }

    impl Embedder for Fake {
        fn identity(&self) -> &ModelIdentity {
            &self.identity
        }
        fn dim(&self) -> usize {
            2
        }
        fn tokens(&self, text: &str) -> Result<Vec<u32>, ModelError> {
            Ok(vec![text.len() as u32])
        }
        fn embed(&self, texts: &[Vec<u32>], _: &Control) -> Result<Vec<Vec<f32>>, ModelError> {
            let mut computed = self.computed.lock().unwrap();
            if *computed + texts.len() > self.most.load(Ordering::SeqCst) {
                return Err(ModelError::Inference("killed".into()));
            }
            *computed += texts.len();
            Ok(texts.iter().map(|text| vec![text[0] as f32, 1.0]).collect())
        }
    }

    fn worker(name: &str) -> (Arc<Fake>, EmbedWorker) {
        let most = AtomicUsize::new(usize::MAX);
        let fake = Arc::new(Fake { identity: model(name), computed: Mutex::default(), most });
        let embedder: Arc<dyn Embedder> = fake.clone();
        (fake, EmbedWorker::start(embedder).unwrap())
    }

    fn computed(fake: &Fake) -> usize {
        std::mem::take(&mut fake.computed.lock().unwrap())
    }

    #[test]
    fn what_an_interrupted_build_embedded_is_not_embedded_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (fake, worker) = worker("ours");
        let texts: Vec<String> = (0..2 * KEPT_AT_ONCE + 10).map(|n| "x".repeat(n)).collect();
        let embed = || {
            let mut embedding = Embedding::new(&worker, vec![]).resuming(&path).unwrap();
            embedding.vectors(&texts, &mut |_, _| ())
        };
        fake.most.store(KEPT_AT_ONCE + KEPT_AT_ONCE / 2, Ordering::SeqCst);
        assert!(matches!(embed(), Err(FitError::Engine(_))));
        assert!(computed(&fake) >= KEPT_AT_ONCE);
        fake.most.store(usize::MAX, Ordering::SeqCst);
        let vectors = embed().unwrap();
        assert_eq!(computed(&fake), texts.len() - KEPT_AT_ONCE, "the first part is there");
        assert!(vectors.iter().enumerate().all(|(n, v)| v[0] == n as f32));
        assert_eq!(embed().unwrap(), vectors);
        assert_eq!(computed(&fake), 0);
    }

    #[test]
    fn equal_texts_and_those_of_any_earlier_generation_are_embedded_once() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        write(dirs[0].path(), &model("other"), None);
        write(dirs[1].path(), &model("ours"), None);
        // Neither gate nor text index need be of today's format.
        std::fs::remove_file(dirs[1].path().join("gate.json")).unwrap();
        let earlier = dirs.iter().map(|dir| dir.path().to_owned()).collect();
        let (fake, worker) = worker("ours");
        let known = QUESTIONS[0].0;
        let texts = [known, "新的", &normalize(&answer_to(known)), "新的"].map(str::to_owned);
        let mut told = Vec::new();
        let vectors = Embedding::new(&worker, earlier)
            .vectors(&texts, &mut |done, total| told.push((done, total)))
            .unwrap();
        assert_eq!(computed(&fake), 1);
        assert_eq!(vectors[0], QUESTIONS[0].1);
        assert_eq!((vectors.len(), &vectors[1]), (4, &vectors[3]));
        assert_eq!(told.last(), Some(&(1, 1)));
    }
}
