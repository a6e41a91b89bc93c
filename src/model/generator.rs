//! A Qwen2 model as a [`Generator`]: prompt in, text out as it comes.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use candle_core::Tensor;
use candle_core::quantized::gguf_file::Content;

use crate::base::clock::Stopwatch;
use crate::model::arch::qwen2::{Logits, Qwen2};
use crate::model::bpe::Bpe;
use crate::model::chat_template::ChatTemplate;
use crate::model::kv::KvCache;
use crate::model::sampler::Sampler;
use crate::model::{
    ChatMessage, ComposeRequest, Composed, Control, GenerateRequest, Generated, Generator,
    ModelError, ModelIdentity,
};

/// Tokens read in one pass, after which the control is looked at.
const PREFILL_CHUNK: usize = 64;
/// Tokens that end a turn besides the file's own end token.
const STOP_TOKENS: [&str; 2] = ["<|im_end|>", "<|endoftext|>"];

/// A Qwen2 model with its tokenizer and chat format. One thread at a time: passes use all cores.
pub struct QwenGenerator {
    identity: ModelIdentity,
    model: Qwen2,
    bpe: Bpe,
    template: ChatTemplate,
    stop: Vec<u32>,
}

impl QwenGenerator {
    /// Loads a GGUF file; `identity` is what the caller verified it to be.
    ///
    /// # Errors
    /// `Io` when the file cannot be read, `Corrupt` when it is not a Qwen2 model with a BPE
    /// tokenizer and a chat template.
    pub fn open(path: &Path, identity: ModelIdentity) -> Result<Self, ModelError> {
        let name = || path.display().to_string();
        let corrupt = |reason: String| ModelError::Corrupt { path: name(), reason };
        let file = File::open(path).map_err(|source| ModelError::Io { path: name(), source })?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let content = Content::read(&mut reader).map_err(|e| corrupt(e.to_string()))?;
        let model = Qwen2::from_gguf(&content, &mut reader).map_err(|e| corrupt(e.to_string()))?;
        let bpe = Bpe::from_gguf(&content).map_err(corrupt)?;
        let template = content.metadata.get("tokenizer.chat_template");
        let template = template.and_then(|t| t.to_string().ok()).cloned();
        let template = template.ok_or_else(|| corrupt("no chat template".to_owned()))?;
        let template = ChatTemplate::new(template).map_err(corrupt)?;
        let end = content.metadata.get("tokenizer.ggml.eos_token_id");
        let end = end.and_then(|id| id.to_u32().ok());
        let mut stop: Vec<u32> = STOP_TOKENS.iter().filter_map(|t| bpe.id(t)).chain(end).collect();
        stop.dedup();
        Ok(Self { identity, model, bpe, template, stop })
    }

    /// Longest prompt and reply together, tokens.
    pub fn context(&self) -> usize {
        self.model.config().context
    }

    /// Reads `tokens` in chunks; the logits are those of the last one.
    fn prefill(
        &self,
        tokens: &[u32],
        cache: &mut KvCache,
        control: &Control,
    ) -> Result<Tensor, ModelError> {
        let mut logits = None;
        for chunk in tokens.chunks(PREFILL_CHUNK) {
            control.check()?;
            logits = Some(self.model.forward(chunk, cache, Logits::Last)?);
        }
        logits.ok_or_else(|| ModelError::BadRequest("the prompt is empty".to_owned()))
    }

    fn fitting_tokens(&self, prompt: &str) -> Result<Vec<u32>, ModelError> {
        let tokens = self.bpe.encode(prompt)?;
        let (n, window) = (tokens.len(), self.context());
        if n >= window {
            let reason = format!("a prompt of {n} tokens does not fit the window of {window}");
            return Err(ModelError::BadRequest(reason));
        }
        Ok(tokens)
    }
}

impl Generator for QwenGenerator {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn chat_prompt(&self, messages: &[ChatMessage]) -> Result<String, ModelError> {
        let clean = |m: &ChatMessage| ChatMessage {
            role: m.role,
            content: self.bpe.strip_specials(&m.content),
        };
        self.template.render(&messages.iter().map(clean).collect::<Vec<_>>())
    }

    fn generate(
        &mut self,
        request: &GenerateRequest,
        control: &Control,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Generated, ModelError> {
        let prompt = self.fitting_tokens(&request.prompt)?;
        let mut cache = KvCache::new(self.model.config().kv_shape());
        let mut sampler = Sampler::new(request.sampling);
        let mut decoder = self.bpe.decoder();
        let mut done = Generated { prompt_tokens: prompt.len(), ..Generated::default() };
        let watch = Stopwatch::start();
        let mut logits = self.prefill(&prompt, &mut cache, control)?;
        done.prefill_s = watch.elapsed().as_secs_f64();
        let watch = Stopwatch::start();
        let room = request.max_tokens.min(self.context() - prompt.len());
        let mut logprobs = 0.0;
        while done.new_tokens < room {
            control.check()?;
            let row: Vec<f32> = logits.squeeze(0)?.to_vec1()?;
            let Some(next) = sampler.sample(&row) else { break };
            if self.stop.contains(&next.token) {
                break;
            }
            done.new_tokens += 1;
            logprobs += next.logprob;
            let text = decoder.push(next.token);
            if !text.is_empty() {
                on_text(&text);
                done.text.push_str(&text);
            }
            if done.new_tokens < room {
                logits = self.model.forward(&[next.token], &mut cache, Logits::Last)?;
            }
        }
        done.decode_s = watch.elapsed().as_secs_f64();
        done.mean_logprob = logprobs / done.new_tokens.max(1) as f32;
        Ok(done)
    }

    fn compose(
        &mut self,
        _request: &ComposeRequest,
        _control: &Control,
    ) -> Result<Composed, ModelError> {
        Err(ModelError::BadRequest("later".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Sampling;
    use crate::model::test_weights;

    #[test]
    fn scratch_speed() {
        let watch = Stopwatch::start();
        let mut g = QwenGenerator::open(
            &test_weights::generator(),
            ModelIdentity { name: "x".into(), sha256: String::new() },
        )
        .unwrap();
        println!("open {} ms", watch.ms());
        let text =
            "我们店铺支持七天无理由退货，退款将在商品签收后三到五个工作日内原路退回。".repeat(8);
        let prompt = g
            .chat_prompt(&[ChatMessage {
                role: "user",
                content: format!("{text}\n退款多久到账？"),
            }])
            .unwrap();
        for _ in 0..3 {
            let request = GenerateRequest {
                prompt: prompt.clone(),
                max_tokens: 32,
                sampling: Sampling::Greedy,
            };
            let d = g.generate(&request, &Control::default(), &mut |_| ()).unwrap();
            println!(
                "{} tok prefill {:.1} tok/s decode {:.1} tok/s {}",
                d.prompt_tokens,
                d.prompt_tokens as f64 / d.prefill_s,
                d.new_tokens as f64 / d.decode_s,
                d.text
            );
        }
    }
}
