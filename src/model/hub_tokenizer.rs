//! The tokenizer of an imported encoder: the hub's `tokenizer.json`, carried in the GGUF file.

use tokenizers::Tokenizer;

use crate::model::ModelError;
use crate::model::gguf::GgufFile;

/// Where the GGUF format puts it.
pub(crate) const TOKENIZER_KEY: &str = "tokenizer.huggingface.json";

/// Texts to token ids with the marks around them.
pub(crate) struct HubTokenizer {
    tokenizer: Tokenizer,
    begin: u32,
    end: u32,
}

impl HubTokenizer {
    pub(crate) fn from_gguf(gguf: &GgufFile) -> Result<Self, ModelError> {
        Self::parse(gguf.text(TOKENIZER_KEY)?).map_err(|e| gguf.corrupt(e))
    }

    /// # Errors
    /// When it cannot be read, or does not put one mark before and one after a text.
    pub(crate) fn parse(json: &str) -> Result<Self, String> {
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(|e| e.to_string())?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| e.to_string())?;
        // Marks written out in a text are text: nobody can end a sequence from inside.
        tokenizer.set_encode_special_tokens(true);
        let ids = |marks: bool| {
            let encoding = tokenizer.encode_fast("a", marks).map_err(|e| e.to_string())?;
            Ok::<_, String>(encoding.get_ids().to_vec())
        };
        let (plain, marked) = (ids(false)?, ids(true)?);
        match marked.as_slice() {
            [begin, inner @ .., end] if *inner == plain => {
                let (begin, end) = (*begin, *end);
                Ok(Self { tokenizer, begin, end })
            }
            _ => Err("the tokenizer does not put one mark before a text and one after it".into()),
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Token ids with begin and end marks; cut to `window` ids, the end mark kept.
    pub(crate) fn encode(&self, text: &str, window: usize) -> Result<Vec<u32>, ModelError> {
        let encoding = self.tokenizer.encode_fast(text, false);
        let encoding = encoding.map_err(|e| ModelError::BadRequest(e.to_string()))?;
        let mut ids = vec![self.begin];
        ids.extend(encoding.get_ids());
        ids.truncate(window.saturating_sub(1));
        ids.push(self.end);
        Ok(ids)
    }
}
