//! Renders the chat template that a GGUF file carries, as Hugging Face's `apply_chat_template` does.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, context};

use crate::model::{ChatMessage, ModelError};

/// A model's own chat format.
pub struct ChatTemplate {
    environment: Environment<'static>,
}

const NAME: &str = "chat";

impl ChatTemplate {
    /// Compiles the template. Whitespace options and `raise_exception` are those of the
    /// `transformers` library, for which such templates are written.
    pub fn new(source: String) -> Result<Self, String> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| e.to_string())?);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_template_owned(NAME, source).map_err(|e| e.to_string())?;
        Ok(Self { environment })
    }

    /// The prompt for `messages`, ending where the assistant speaks.
    pub fn render(&self, messages: &[ChatMessage]) -> Result<String, ModelError> {
        let bad = |e: Error| ModelError::BadRequest(format!("chat template: {e}"));
        let fields = |m: &ChatMessage| context! { role => m.role, content => m.content.as_str() };
        let context = context! {
            messages => messages.iter().map(fields).collect::<Vec<_>>(),
            add_generation_prompt => true,
        };
        self.environment.get_template(NAME).and_then(|t| t.render(context)).map_err(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shape of Qwen2.5's template, tools left in to show that unused branches do no harm.
    const QWEN: &str = r#"{%- if tools %}
    {{- tools | tojson }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>system\nYou are Qwen.<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"#;

    fn message(role: &'static str, content: &str) -> ChatMessage {
        ChatMessage { role, content: content.to_owned() }
    }

    #[test]
    fn renders_as_transformers_does() {
        let template = ChatTemplate::new(QWEN.to_owned()).unwrap();
        let messages = [message("system", "简短回答。"), message("user", "<多久>到账？")];
        assert_eq!(
            template.render(&messages).unwrap(),
            "<|im_start|>system\n简短回答。<|im_end|>\n<|im_start|>user\n<多久>到账？<|im_end|>\n\
             <|im_start|>assistant\n"
        );
        let without_system = template.render(&messages[1..]).unwrap();
        assert!(without_system.starts_with("<|im_start|>system\nYou are Qwen.<|im_end|>\n"));
    }

    #[test]
    fn a_template_may_refuse_and_a_broken_one_is_named() {
        let refusing = ChatTemplate::new("{{ raise_exception('no system role') }}".to_owned());
        let error = refusing.unwrap().render(&[]).unwrap_err();
        assert!(matches!(error, ModelError::BadRequest(m) if m.contains("no system role")));
        assert!(ChatTemplate::new("{% if %}".to_owned()).is_err());
    }
}
