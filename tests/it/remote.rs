//! Remote models against a simulator on the loopback that checks what it is asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::routing::post;
use huida::base::clock::Deadline;
use huida::engine::EngineError;
use huida::engine::embed::EmbedWorker;
use huida::model::remote::{Address, RemoteEmbedder, RemoteGenerator};
use huida::model::{
    ChatMessage, Chosen, ComposeRequest, ComposeSource, Composed, Control, Done, Embedder,
    GenerateRequest, Generator, ModelError, Sampling, Task, Written,
};
use serde_json::{Value, json};

/// What came in: path, authorization, body.
type Asked = (String, String, Value);

struct Simulator {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    answer: Arc<Mutex<Answer>>,
}

/// Makes status and body out of a request's body.
type Answer = Box<dyn Fn(&Value) -> (u16, String) + Send>;

#[derive(Clone)]
struct Shared {
    asked: Arc<Mutex<Vec<Asked>>>,
    answer: Arc<Mutex<Answer>>,
}

async fn serve(
    State(shared): State<Shared>,
    uri: Uri,
    headers: HeaderMap,
    body: String,
) -> (StatusCode, String) {
    let key = headers.get("authorization").map_or("", |v| v.to_str().unwrap()).to_owned();
    let body: Value = serde_json::from_str(&body).unwrap();
    shared.asked.lock().unwrap().push((uri.path().to_owned(), key, body.clone()));
    let (status, text) = shared.answer.lock().unwrap()(&body);
    if text == "late" {
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    (StatusCode::from_u16(status).unwrap(), text)
}

impl Simulator {
    fn new(answer: impl Fn(&Value) -> (u16, String) + Send + 'static) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let answer: Arc<Mutex<Answer>> = Arc::new(Mutex::new(Box::new(answer)));
        let shared = Shared { asked: Arc::clone(&asked), answer: Arc::clone(&answer) };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let app = Router::new()
                    .route("/v1/embeddings", post(serve))
                    .route("/v1/chat/completions", post(serve))
                    .with_state(shared);
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                axum::serve(listener, app).await.unwrap();
            });
        });
        Self { address, asked, answer }
    }

    fn answer_with(&self, answer: impl Fn(&Value) -> (u16, String) + Send + 'static) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }

    fn base(&self) -> String {
        format!("http://{}/v1/", self.address)
    }

    /// `PATH` stands for the key: tests share their environment and may not set one.
    fn model(&self) -> Address {
        Address::new(&self.base(), "m", "PATH").unwrap()
    }

    fn last(&self) -> Asked {
        self.asked.lock().unwrap().last().unwrap().clone()
    }
}

fn key() -> String {
    format!("Bearer {}", std::env::var("PATH").unwrap())
}

/// A vector a text, the last text's first: order must not matter.
fn vectors(body: &Value) -> (u16, String) {
    let texts = body["input"].as_array().unwrap();
    let row = |(index, text): (usize, &Value)| {
        let length = text.as_str().unwrap().chars().count();
        json!({"index": index, "object": "embedding", "embedding": [length, 3.0, 0.0]})
    };
    let rows: Vec<Value> = texts.iter().enumerate().map(row).rev().collect();
    (200, json!({"object": "list", "data": rows, "model": "m-2026", "usage": {}}).to_string())
}

fn says(text: &str) -> (u16, String) {
    let usage = json!({"prompt_tokens": 21, "completion_tokens": 4, "total_tokens": 25});
    let message = json!({"role": "assistant", "content": text});
    (200, json!({"choices": [{"index": 0, "message": message}], "usage": usage}).to_string())
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|t| (*t).to_owned()).collect()
}

#[test]
fn a_remote_embedder_asks_as_the_interface_wants_and_gives_unit_vectors() {
    let simulator = Simulator::new(vectors);
    let embedder = RemoteEmbedder::open(simulator.model()).unwrap();
    assert_eq!(embedder.dim(), 3);
    let made = embed(&embedder, &["四个字呢", "x"], &Control::default()).unwrap();
    assert_eq!(made[0], [0.8, 0.6, 0.0]);
    let norm: f32 = made[1].iter().map(|x| x * x).sum();
    assert!((norm - 1.0).abs() < 1e-6);
    let (path, authorization, body) = simulator.last();
    assert_eq!((path.as_str(), authorization), ("/v1/embeddings", key()));
    let wanted = json!({"model": "m", "input": ["四个字呢", "x"], "encoding_format": "float"});
    assert_eq!(body, wanted);
    let many = embed(&embedder, &["a"; 130], &Control::default()).unwrap();
    assert_eq!(many.len(), 130);
    assert_eq!(simulator.last().2["input"].as_array().unwrap().len(), 2, "64, 64 and 2");
    assert!(!format!("{:?}", simulator.model()).contains(&std::env::var("PATH").unwrap()));
}

#[test]
fn another_model_or_width_is_another_identity() {
    let simulator = Simulator::new(vectors);
    let identity = |model: &str| {
        let address = Address::new(&simulator.base(), model, "").unwrap();
        RemoteEmbedder::open(address).unwrap().identity().clone()
    };
    let first = identity("m");
    assert_eq!(first, identity("m"));
    assert_eq!(simulator.last().1, "", "no key, none sent");
    assert_ne!(first, identity("n"));
    simulator.answer_with(|_| {
        (200, json!({"data": [{"index": 0, "embedding": [1.0]}], "model": "m-2026"}).to_string())
    });
    assert_ne!(first, identity("m"), "another width");
    simulator.answer_with(|body| {
        let (status, text) = vectors(body);
        (status, text.replace("m-2026", "m-2027"))
    });
    assert_ne!(first, identity("m"), "the service calls it something else");
}

#[test]
fn failures_have_their_class_and_never_show_the_key() {
    let simulator = Simulator::new(vectors);
    let embedder = RemoteEmbedder::open(simulator.model()).unwrap();
    let worker = EmbedWorker::start(Arc::new(RemoteEmbedder::open(simulator.model()).unwrap()));
    let failed = |answer: fn(&Value) -> (u16, String)| {
        simulator.answer_with(answer);
        let error = embed(&embedder, &["退款"], &Control::default()).unwrap_err();
        assert!(!error.to_string().contains(&std::env::var("PATH").unwrap()));
        assert!(!error.to_string().contains("退款"), "{error}");
        error
    };
    let refused = failed(|_| (401, "{\"error\":\"bad key\"}".into()));
    assert!(matches!(refused, ModelError::Refused { status: 401, .. }), "{refused}");
    let down = failed(|_| (500, String::new()));
    assert!(matches!(down, ModelError::Unreachable { .. }), "{down}");
    for answer in [
        |_: &Value| (200, "退款 is not JSON".to_owned()),
        |_: &Value| (200, json!({"data": "退款"}).to_string()),
        |_: &Value| (200, json!({"data": []}).to_string()),
        |_: &Value| (200, json!({"data": [{"index": 1, "embedding": [1, 2, 3]}]}).to_string()),
        |_: &Value| (200, json!({"data": [{"index": 0, "embedding": [1, 2]}]}).to_string()),
        |_: &Value| (200, json!({"data": [{"index": 0, "embedding": [0, 0, 0]}]}).to_string()),
        |_: &Value| (200, " ".repeat((32 << 20) + 1)),
        |_: &Value| (404, "no such model".to_owned()),
        |_: &Value| (307, String::new()),
    ] {
        let malformed = failed(answer);
        assert!(matches!(malformed, ModelError::Malformed { .. }), "{malformed}");
    }
    let busy = failed(|_| (429, String::new()));
    assert!(matches!(busy, ModelError::Overloaded { status: 429, .. }), "{busy}");
    let busy = worker.unwrap().embed_one("退款", &Control::default());
    assert!(matches!(busy, Err(EngineError::Overloaded(_))));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = Address::new(&format!("http://{nobody}/v1"), "m", "").unwrap();
    let error = RemoteEmbedder::open(nobody).err().unwrap();
    assert!(matches!(error, ModelError::Unreachable { .. }), "{error}");
}

#[test]
fn a_deadline_ends_the_wait() {
    let simulator = Simulator::new(vectors);
    let embedder = RemoteEmbedder::open(simulator.model()).unwrap();
    simulator.answer_with(|_| (200, "late".into()));
    let deadline = Deadline::after(Duration::from_millis(300));
    let late = embed(&embedder, &["a"], &Control::with_deadline(deadline));
    assert!(matches!(late, Err(ModelError::DeadlinePassed)), "{late:?}");
    let gone = Control::default();
    gone.cancel();
    let asked = simulator.asked.lock().unwrap().len();
    assert!(matches!(embed(&embedder, &["a"], &gone), Err(ModelError::Cancelled)));
    assert_eq!(simulator.asked.lock().unwrap().len(), asked, "nothing was sent");
}

fn embed(
    embedder: &RemoteEmbedder,
    texts: &[&str],
    control: &Control,
) -> Result<Vec<Vec<f32>>, ModelError> {
    let tokens: Vec<Vec<u32>> = texts.iter().map(|text| embedder.tokens(text).unwrap()).collect();
    embedder.embed(&tokens, control)
}

fn compose(generator: &mut RemoteGenerator) -> Result<Composed, ModelError> {
    let done = generator.run(&Task::Compose(composing()), &Control::default(), &mut |_| ())?;
    let Done::Composed(composed) = done else { panic!("{done:?}") };
    Ok(composed)
}

fn composing() -> ComposeRequest {
    let units = texts(&["运费由我们承担。", "退款三天内到账。"]);
    let sources = vec![ComposeSource { written: Written::AtLarge, units }];
    ComposeRequest { question: "运费谁出，多久到账".into(), sources, max_chars: 40 }
}

#[test]
fn a_remote_generator_chooses_among_the_units_and_nothing_else_comes_out() {
    let simulator = Simulator::new(|_| says("{\"units\":[2,1]}"));
    let mut generator = RemoteGenerator::open(simulator.model()).unwrap();
    let composed = compose(&mut generator).unwrap();
    let place = |unit| Chosen { source: 0, unit };
    assert_eq!(composed.chosen, [place(1), place(0)]);
    assert_eq!(composed.prompt_tokens, 21);
    let (path, authorization, body) = simulator.last();
    assert_eq!((path.as_str(), authorization), ("/v1/chat/completions", key()));
    assert_eq!(body["temperature"], json!(0));
    assert_eq!(body["response_format"], json!({"type": "json_object"}));
    assert_eq!(body["messages"][0]["role"], json!("system"));
    let asked = body["messages"][1]["content"].as_str().unwrap();
    assert!(asked.contains("1. 运费由我们承担。") && asked.contains("运费谁出，多久到账"));
    for said in ["我给您免单。", "{\"units\":[3]}", "{\"units\":[1,1]}"] {
        simulator.answer_with(move |_| says(said));
        let invented = compose(&mut generator);
        assert!(matches!(invented, Err(ModelError::Malformed { .. })), "{said}");
    }
    simulator.answer_with(|_| says("{\"units\":[]}"));
    let none = compose(&mut generator);
    assert!(matches!(none, Err(ModelError::BadRequest(_))));
    simulator.answer_with(|_| (429, String::new()));
    let busy = compose(&mut generator);
    assert!(matches!(busy, Err(ModelError::Overloaded { .. })));
}

#[test]
fn a_remote_generator_continues_a_conversation() {
    let simulator = Simulator::new(|_| says("三天内到账。"));
    let mut generator = RemoteGenerator::open(simulator.model()).unwrap();
    generator.check().unwrap();
    assert_eq!(simulator.last().2["max_tokens"], json!(1));
    let message = ChatMessage { role: "user", content: "多久到账".into() };
    let prompt = generator.chat_prompt(&[message]).unwrap();
    let sampling = Sampling::TopP { temperature: 0.5, top_p: 0.75, seed: u64::MAX };
    let request =
        GenerateRequest { prompt, max_tokens: 20, sampling, lookup: true, constraint: None };
    let mut seen = String::new();
    let done = generator
        .run(&Task::Generate(request), &Control::default(), &mut |piece| seen.push_str(piece))
        .unwrap();
    let Done::Generated(done) = done else { panic!("{done:?}") };
    assert_eq!((done.text.as_str(), seen.as_str()), ("三天内到账。", "三天内到账。"));
    assert_eq!((done.prompt_tokens, done.new_tokens), (21, 4));
    let (_, _, body) = simulator.last();
    assert_eq!(body["messages"], json!([{"role": "user", "content": "多久到账"}]));
    assert_eq!(body["max_tokens"], json!(20));
    assert_eq!((&body["temperature"], &body["top_p"]), (&json!(0.5), &json!(0.75)));
    assert!(body["seed"].as_i64().is_some());
}

#[test]
fn addresses_that_would_give_the_key_away_are_refused() {
    for (url, variable, reason) in [
        ("http://models.example.com/v1", "PATH", "https"),
        ("https://me:secret@models.example.com/v1", "", "api_key_env"),
        ("https://models.example.com/v1?key=secret", "", "api_key_env"),
        ("ftp://models.example.com", "", "`ftp`"),
        ("models", "", "base_url"),
        ("https://models.example.com/v1", "HUIDA_NO_SUCH_VARIABLE", "HUIDA_NO_SUCH_VARIABLE"),
    ] {
        let error = Address::new(url, "m", variable).unwrap_err();
        assert!(error.contains(reason) && !error.contains("secret"), "{url}: {error}");
    }
    assert!(Address::new("https://models.example.com/v1", "", "").is_err());
}
