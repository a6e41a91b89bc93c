use super::*;
use crate::base::clock::Deadline;
use crate::model::manifest::Manifest;
use crate::model::pull::installed_or_pull;
use crate::model::{ChatMessage, ComposeSource, ModelIdentity, Sampling, Written};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{sleep, spawn};
use std::time::Duration;

/// Says its prompt, a byte a pass; a pass takes `pass`, can be held, and panics on "boom".
struct Fake {
    identity: ModelIdentity,
    pass: Duration,
    hold: Arc<AtomicBool>,
    /// Most tasks that were in one pass.
    together: Arc<Mutex<usize>>,
    begun: Arc<Mutex<Vec<String>>>,
}

struct FakeWork {
    prompt: String,
    control: Control,
    said: usize,
    ended: Option<Result<(), ModelError>>,
}

impl Work for FakeWork {
    fn ended(&self) -> bool {
        self.ended.is_some()
    }
    fn fresh_text(&mut self) -> String {
        String::new()
    }
    fn finish(self) -> Result<Done, ModelError> {
        self.ended.unwrap_or(Err(ModelError::Cancelled))?;
        Ok(Done::Generated(Generated { text: self.prompt, ..Generated::default() }))
    }
}

impl Generator for Fake {
    type Work = FakeWork;

    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }
    fn chat_prompt(&self, _: &[ChatMessage]) -> Result<String, ModelError> {
        Ok(String::new())
    }
    fn begin(&mut self, task: &Task, control: &Control) -> Result<FakeWork, ModelError> {
        let Task::Generate(GenerateRequest { prompt, .. }) = task else {
            return Err(ModelError::BadRequest("only speaks".into()));
        };
        self.begun.lock().unwrap().push(prompt.clone());
        Ok(FakeWork { prompt: prompt.clone(), control: control.clone(), said: 0, ended: None })
    }
    fn step(&mut self, work: &mut [FakeWork]) -> Result<(), ModelError> {
        while self.hold.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        sleep(self.pass);
        let mut most = self.together.lock().unwrap();
        *most = most.max(work.len());
        drop(most);
        for work in work {
            assert!(work.prompt != "boom", "as asked");
            work.said += 1;
            let whole = work.said >= work.prompt.len();
            work.ended = work.control.check().err().map(Err).or(whole.then_some(Ok(())));
        }
        Ok(())
    }
}

struct Held {
    worker: Arc<GenerateWorker>,
    hold: Arc<AtomicBool>,
    together: Arc<Mutex<usize>>,
    /// Prompts in the order in which the model was given them.
    begun: Arc<Mutex<Vec<String>>>,
}

fn fake(hold: bool, pass: Duration) -> Held {
    let identity = ModelIdentity { name: "fake".into(), sha256: "0".into() };
    let (hold, together) = (Arc::new(AtomicBool::new(hold)), Arc::default());
    let begun = Arc::default();
    let model = Fake {
        identity,
        pass,
        hold: Arc::clone(&hold),
        together: Arc::clone(&together),
        begun: Arc::clone(&begun),
    };
    let worker = Arc::new(GenerateWorker::start(move || Ok(model)).unwrap());
    Held { worker, hold, together, begun }
}

fn request(prompt: &str) -> GenerateRequest {
    GenerateRequest {
        prompt: prompt.to_owned(),
        max_tokens: 1,
        sampling: Sampling::Greedy,
        lookup: true,
        constraint: None,
    }
}

type Answer = std::thread::JoinHandle<Result<Generated, EngineError>>;

impl Held {
    fn ask(&self, prompt: &str, control: &Control) -> Answer {
        let (worker, request, control) =
            (Arc::clone(&self.worker), request(prompt), control.clone());
        spawn(move || worker.generate(request, &control))
    }

    fn release(&self) {
        self.hold.store(false, Ordering::SeqCst);
    }
}

#[test]
fn tasks_that_wait_together_advance_together() {
    let held = fake(true, Duration::ZERO);
    let asked: Vec<(usize, Answer)> =
        (1..=7).map(|n| (n, held.ask(&"x".repeat(n), &Control::default()))).collect();
    sleep(Duration::from_millis(200));
    held.release();
    for (n, answer) in asked {
        assert_eq!(answer.join().unwrap().unwrap().text.len(), n);
    }
    assert_eq!(*held.together.lock().unwrap(), TOGETHER);
}

#[test]
fn a_full_queue_refuses_at_once() {
    let held = fake(true, Duration::ZERO);
    let first = held.ask("xx", &Control::default());
    sleep(Duration::from_millis(100));
    // The pass that is held has one task; the others wait until it ends.
    let waiting: Vec<Answer> = (0..QUEUE).map(|_| held.ask("x", &Control::default())).collect();
    sleep(Duration::from_millis(100));
    let refused = held.worker.generate(request("x"), &Control::default()).unwrap_err();
    assert!(matches!(refused, EngineError::Overloaded(_)));
    assert!(refused.to_string().contains("person"), "says what to do: {refused}");
    held.release();
    assert!(waiting.into_iter().chain([first]).all(|answer| answer.join().unwrap().is_ok()));
}

#[test]
fn who_would_wait_in_vain_is_refused_at_once() {
    let held = fake(false, Duration::from_millis(20));
    let (short, long) = ("x".repeat(10), "x".repeat(100));
    held.worker.generate(request(&short), &Control::default()).unwrap();
    held.hold.store(true, Ordering::SeqCst);
    let answer = held.ask(&long, &Control::default());
    while *held.begun.lock().unwrap() != [&*short, &long] {
        std::thread::yield_now();
    }
    let open = held.worker.load.counts().open;
    // The pass is held: had it waited it would be told of its deadline, and not of the others.
    let control = Control::with_deadline(Deadline::after(Duration::from_millis(300)));
    let refused = held.worker.generate(request("in vain"), &control);
    assert!(matches!(refused, Err(EngineError::Overloaded(_))), "{refused:?}");
    assert_eq!(held.worker.load.counts().open, open, "who is refused does not count");
    let patient = Control::with_deadline(Deadline::after(Duration::from_secs(60)));
    let patient = held.ask("patient", &patient);
    held.release();
    assert!(patient.join().unwrap().is_ok() && answer.join().unwrap().is_ok());
    assert_eq!(*held.begun.lock().unwrap(), [&*short, &long, "patient"]);
    assert_eq!(held.worker.load.counts().open, 0, "what has ended no longer counts");
}

#[test]
fn slowness_of_old_refuses_some_and_then_another_tries() {
    let worker = fake(false, Duration::ZERO);
    let cost = cost(&Task::Generate(request("x")));
    worker.worker.load.learn(cost, 60.0);
    let ask = || {
        let control = Control::with_deadline(Deadline::after(Duration::from_secs(5)));
        worker.worker.generate(request("x"), &control)
    };
    let refused = (0..100).take_while(|_| ask().is_err()).count();
    // 60 · 0.9ⁿ ≤ 5
    assert_eq!(refused, 24);
}

#[test]
fn a_late_one_is_told_so_while_the_pass_goes_on() {
    let held = fake(true, Duration::ZERO);
    let control = Control::with_deadline(Deadline::after(Duration::from_millis(50)));
    let late = held.ask("x", &control).join().unwrap();
    assert!(matches!(late, Err(EngineError::Model(ModelError::DeadlinePassed))));
    held.release();
    assert!(held.worker.generate(request("x"), &Control::default()).is_ok());
}

#[test]
fn a_panic_ends_what_is_under_way_and_not_the_thread() {
    let held = fake(false, Duration::ZERO);
    assert!(held.worker.generate(request("boom"), &Control::default()).is_err());
    assert_eq!(held.worker.generate(request("ok"), &Control::default()).unwrap().text, "ok");
}

#[test]
fn a_cancelled_one_leaves_the_others_and_all_come_out_as_alone() {
    let identity = || Manifest::builtin().get("qwen2.5-coder-0.5b").unwrap().identity();
    let path = installed_or_pull("qwen2.5-coder-0.5b");
    let open = move || crate::model::generator::QwenGenerator::open(&path, identity());
    let mut alone = open().unwrap();
    let worker = Arc::new(GenerateWorker::start(open).unwrap());
    let talk = |text: &str, max_tokens| {
        let prompt = format!("<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n");
        Task::Generate(GenerateRequest { max_tokens, ..request(&prompt) })
    };
    let units = ["退货运费由买家承担。", "请上传照片。", "退款三天内到账。"].map(str::to_owned);
    let source = ComposeSource { written: Written::AtLarge, units: units.to_vec() };
    let question = "退货的邮费谁出？".to_owned();
    let tasks = [
        talk("请复述：退款三天内到账。", 12),
        Task::Compose(ComposeRequest { question, sources: vec![source], max_chars: 60 }),
        talk("从一数到十。", 20),
    ];
    let gone = Control::default();
    let ask = |task: Task, control: Control| {
        let worker = Arc::clone(&worker);
        spawn(move || worker.run(task, &control, &mut || ()))
    };
    let cancelled = ask(talk("从一数到一百。", 200), gone.clone());
    let asked: Vec<_> = tasks.iter().map(|t| ask(t.clone(), Control::default())).collect();
    sleep(Duration::from_millis(300));
    gone.cancel();
    let cancelled = cancelled.join().unwrap();
    assert!(matches!(cancelled, Err(EngineError::Model(ModelError::Cancelled))), "{cancelled:?}");
    for (task, answer) in tasks.iter().zip(asked) {
        let own = alone.run(task, &Control::default(), &mut |_| ()).unwrap();
        match (answer.join().unwrap().unwrap(), own) {
            (Done::Generated(shared), Done::Generated(own)) => {
                assert_eq!((shared.text, shared.logprobs), (own.text, own.logprobs));
            }
            (shared, own) => assert_eq!(shared, own),
        }
    }
}
