//! `POST /embeddings` as an [`Embedder`].

use serde::Deserialize;
use serde_json::json;

use super::{Address, Service};
use crate::base::digest::sha256_hex;
use crate::model::{Control, Embedder, ModelError, ModelIdentity};

const PATH: &str = "embeddings";
/// Texts of one request: services bound it, and a caller's deadline is looked at in between.
const TEXTS: usize = 64;
/// Asked for once, for the width of a vector.
const PROBE: &str = "自检";

/// An embedding model behind HTTP.
pub struct RemoteEmbedder {
    service: Service,
    identity: ModelIdentity,
    dim: usize,
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Row>,
    #[serde(default)]
    model: String,
}

#[derive(Deserialize)]
struct Row {
    index: usize,
    embedding: Vec<f32>,
}

impl RemoteEmbedder {
    /// Asks for one vector, which tells the width and what the service calls the model. Both are
    /// part of the identity, with address and name: an index of other vectors is refused.
    ///
    /// # Errors
    /// As for a request.
    pub fn open(address: Address) -> Result<Self, ModelError> {
        let service = Service::new(address)?;
        let mut this = Self {
            identity: ModelIdentity { name: service.model().to_owned(), sha256: String::new() },
            service,
            dim: 0,
        };
        let (vectors, called) = this.ask(&[PROBE.to_owned()], &Control::default())?;
        this.dim = vectors.first().map_or(0, Vec::len);
        let base = this.service.address.base.as_str();
        let named = json!([base, this.service.model(), called, this.dim]);
        this.identity.sha256 = sha256_hex(named.to_string().as_bytes());
        Ok(this)
    }

    /// Unit vectors in the order of the texts, and the model's name as the service gives it.
    fn ask(
        &self,
        texts: &[String],
        control: &Control,
    ) -> Result<(Vec<Vec<f32>>, String), ModelError> {
        let body = json!({
            "model": self.service.model(), "input": texts, "encoding_format": "float",
        });
        let mut answer: Answer = self.service.post(PATH, &body, control)?;
        answer.data.sort_by_key(|row| row.index);
        let malformed = |reason: String| Err(self.service.malformed(PATH, reason));
        if !answer.data.iter().map(|row| row.index).eq(0..texts.len()) {
            let (got, asked) = (answer.data.len(), texts.len());
            return malformed(format!("{got} vectors for {asked} texts, or in no order"));
        }
        let mut vectors = Vec::with_capacity(texts.len());
        for Row { embedding, .. } in answer.data {
            let dim = if self.dim == 0 { embedding.len() } else { self.dim };
            let norm = embedding.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            if embedding.len() != dim || !norm.is_finite() || norm <= 0.0 {
                return malformed(format!("a vector of {} numbers, or none", embedding.len()));
            }
            vectors.push(embedding.into_iter().map(|x| (f64::from(x) / norm) as f32).collect());
        }
        Ok((vectors, answer.model))
    }
}

impl Embedder for RemoteEmbedder {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn dim(&self) -> usize {
        self.dim
    }

    /// The service's tokenizer is not at hand, and it wants text: a token a character.
    fn tokens(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        Ok(text.chars().map(u32::from).collect())
    }

    fn embed(
        &self,
        sequences: &[Vec<u32>],
        control: &Control,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let text = |tokens: &Vec<u32>| tokens.iter().filter_map(|c| char::from_u32(*c)).collect();
        let texts: Vec<String> = sequences.iter().map(text).collect();
        let mut vectors = Vec::with_capacity(texts.len());
        for batch in texts.chunks(TEXTS) {
            vectors.extend(self.ask(batch, control)?.0);
        }
        Ok(vectors)
    }
}
