//! `POST /chat/completions` as a [`Generator`].

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::choose::Units;
use super::{Address, Service};
use crate::base::clock::Stopwatch;
use crate::base::digest::sha256_hex;
use crate::model::{
    ChatMessage, ComposeRequest, Composed, Control, Done, GenerateRequest, Generated, Generator,
    ModelError, ModelIdentity, Sampling, Task, Work,
};

const PATH: &str = "chat/completions";
/// Tokens of a choice: some numbers in brackets.
const CHOICE_TOKENS: usize = 256;

/// A chat model behind HTTP.
pub struct RemoteGenerator {
    service: Service,
    identity: ModelIdentity,
}

#[derive(Serialize, Deserialize)]
struct Message {
    role: String,
    content: String,
}

#[derive(Deserialize)]
struct Answer {
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Usage,
}

#[derive(Deserialize)]
struct Choice {
    message: Said,
}

#[derive(Deserialize)]
struct Said {
    content: Option<String>,
}

#[derive(Default, Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: usize,
    #[serde(default)]
    completion_tokens: usize,
}

impl RemoteGenerator {
    /// Nothing is asked yet: a service that is down now may be up when it is needed.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn open(address: Address) -> Result<Self, ModelError> {
        let named = json!([address.base.as_str(), address.model]);
        let sha256 = sha256_hex(named.to_string().as_bytes());
        let identity = ModelIdentity { name: address.model.clone(), sha256 };
        Ok(Self { service: Service::new(address)?, identity })
    }

    /// Asks for one token: whether the service is there and takes the key.
    ///
    /// # Errors
    /// As for a request.
    pub fn check(&self) -> Result<(), ModelError> {
        let messages = json!([{"role": "user", "content": "1"}]);
        let body = json!({"model": self.service.model(), "messages": messages, "max_tokens": 1});
        self.ask(&body, &Control::default()).map(|_| ())
    }

    fn ask(&self, body: &Value, control: &Control) -> Result<(String, Usage), ModelError> {
        let answer: Answer = self.service.post(PATH, body, control)?;
        let said = answer.choices.into_iter().next().and_then(|c| c.message.content);
        let said = said.ok_or_else(|| self.service.malformed(PATH, "no message"))?;
        Ok((said, answer.usage))
    }

    /// The text comes in one piece; log-probabilities are not known. A prompt that is not one of
    /// [`Generator::chat_prompt`] is sent as what a user says.
    fn generate(
        &self,
        request: &GenerateRequest,
        control: &Control,
    ) -> Result<Generated, ModelError> {
        if request.constraint.is_some() {
            let reason = "a remote model cannot be bound to given words: use a local one";
            return Err(ModelError::BadRequest(reason.to_owned()));
        }
        let user = || vec![Message { role: "user".into(), content: request.prompt.clone() }];
        let messages: Vec<Message> =
            serde_json::from_str(&request.prompt).unwrap_or_else(|_| user());
        let mut body = json!({
            "model": self.service.model(), "messages": messages, "max_tokens": request.max_tokens,
        });
        match request.sampling {
            Sampling::Greedy => body["temperature"] = json!(0),
            Sampling::TopP { temperature, top_p, seed } => {
                body["temperature"] = json!(temperature);
                body["top_p"] = json!(top_p);
                // Some services take no more than a signed 64-bit number.
                body["seed"] = json!(seed >> 1);
            }
        }
        let watch = Stopwatch::start();
        let (text, usage) = self.ask(&body, control)?;
        Ok(Generated {
            text,
            prompt_tokens: usage.prompt_tokens,
            new_tokens: usage.completion_tokens,
            decode_s: watch.elapsed().as_secs_f64(),
            ..Generated::default()
        })
    }

    /// By a closed choice; see `choose.rs`. The choice has no log-probability: it is given as 0.
    fn compose(&self, request: &ComposeRequest, control: &Control) -> Result<Composed, ModelError> {
        let units = Units::of(request);
        if units.is_empty() {
            let reason = format!("no unit of the evidence fits {} characters", request.max_chars);
            return Err(ModelError::BadRequest(reason));
        }
        let messages = units.messages(&request.question);
        let messages = messages.map(|m| json!({"role": m.role, "content": m.content}));
        let body = json!({
            "model": self.service.model(), "messages": messages, "max_tokens": CHOICE_TOKENS,
            "temperature": 0, "response_format": {"type": "json_object"},
        });
        let (said, usage) = self.ask(&body, control)?;
        let chosen = units.chosen(&said).map_err(|e| self.service.malformed(PATH, e))?;
        if chosen.is_empty() {
            let reason = "the model finds no unit of the evidence that answers";
            return Err(ModelError::BadRequest(reason.to_owned()));
        }
        Ok(Composed { chosen, prompt_tokens: usage.prompt_tokens, mean_logprob: 0.0 })
    }
}

/// A task that waits for its turn with the service, or what came of it.
pub struct RemoteWork {
    task: Task,
    control: Control,
    fresh: String,
    done: Option<Result<Done, ModelError>>,
}

impl Work for RemoteWork {
    fn ended(&self) -> bool {
        self.done.is_some()
    }

    fn fresh_text(&mut self) -> String {
        std::mem::take(&mut self.fresh)
    }

    fn finish(self) -> Result<Done, ModelError> {
        self.done.unwrap_or(Err(ModelError::Cancelled))
    }
}

impl Generator for RemoteGenerator {
    type Work = RemoteWork;

    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    /// The service renders the template itself, so the messages travel as they are.
    fn chat_prompt(&self, messages: &[ChatMessage]) -> Result<String, ModelError> {
        let message =
            |m: &ChatMessage| Message { role: m.role.to_owned(), content: m.content.clone() };
        let messages: Vec<Message> = messages.iter().map(message).collect();
        serde_json::to_string(&messages).map_err(|e| ModelError::BadRequest(e.to_string()))
    }

    fn begin(&mut self, task: &Task, control: &Control) -> Result<RemoteWork, ModelError> {
        let (task, control) = (task.clone(), control.clone());
        Ok(RemoteWork { task, control, fresh: String::new(), done: None })
    }

    /// One request: the first task that waits is answered, or fails alone.
    fn step(&mut self, work: &mut [RemoteWork]) -> Result<(), ModelError> {
        let Some(first) = work.iter_mut().find(|work| !work.ended()) else { return Ok(()) };
        let done = first.control.check().and_then(|()| match &first.task {
            Task::Generate(request) => self.generate(request, &first.control).map(Done::Generated),
            Task::Compose(request) => self.compose(request, &first.control).map(Done::Composed),
        });
        if let Ok(Done::Generated(generated)) = &done {
            first.fresh.clone_from(&generated.text);
        }
        first.done = Some(done);
        Ok(())
    }
}
