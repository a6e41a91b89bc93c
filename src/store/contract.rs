//! What every [`Store`] must do; each implementation runs all cases, each on a fresh store.

pub(crate) mod delivery;
mod personal;

use super::*;
use crate::domain::decision::{Decision, Reason};
use crate::domain::delivery::Occasion;
use crate::domain::evidence::{Evidence, Scores};
use crate::domain::knowledge::{Domain, Place, Scene};
use crate::domain::message::{AccountName, Content, Platform, Role};
use crate::domain::outgoing::Target;
use crate::domain::trace::Understanding;
use crate::store::outbox::Decided;
use crate::store::queue::Act;

pub(crate) const CASES: &[fn(&dyn Store)] = &[
    importing_twice_changes_nothing,
    a_changed_entry_gets_the_next_version,
    every_version_can_be_gone_back_to,
    a_document_read_again_archives_what_it_no_longer_holds,
    what_changed_is_told_by_revision_and_heads,
    labels_are_kept_once_and_by_purpose,
    a_label_that_is_said_again_is_the_last_word,
    each_import_and_each_label_file_is_in_the_audit_log,
    labels_are_counted_from_a_moment_on,
    how_a_training_ended_is_in_the_audit_log,
    the_last_promise_is_remembered,
    a_retry_finds_the_same_message,
    the_same_id_of_another_sender_is_another_message,
    a_message_is_decided_once,
    context_is_the_conversation_before,
    handoffs_wait_by_priority,
    undecided_messages_are_found_again,
    personal::what_was_sealed_is_kept_with_its_message,
    personal::a_case_has_its_whole_conversation,
    personal::whoever_has_it_shown_is_in_the_audit_log,
];

pub(crate) fn entry(id: &str, question: &str) -> Entry {
    Entry {
        similar_questions: vec![format!("{question}呢")],
        answer: Some("三天内。".into()),
        ..Entry::new(EntryId(id.into()), question.into())
    }
}

pub(crate) fn change(reason: &str) -> Change {
    Change { author: "tester".into(), reason: reason.into(), source: "test".into() }
}

pub(crate) fn import(id: &str, question: &str) -> Import {
    Import::of(vec![entry(id, question)], change(""))
}

pub(crate) fn import_one(store: &dyn Store, id: &str, question: &str) -> ImportOutcome {
    store.import_entries(&import(id, question), 1).unwrap()
}

fn text(sender: &str, id: &str, said: &str) -> Inbound {
    Inbound {
        platform: Platform::WechatMp,
        account: AccountName("mp".into()),
        sender: sender.into(),
        dedupe_key: format!("msg:{id}"),
        sent_at: 1,
        content: Content::Text(said.into()),
    }
}

pub(super) fn arrival(sender: &str, id: &str, said: &str) -> Arrival {
    Arrival {
        inbound: text(sender, id, said),
        target: Some(Target::customer(sender)),
        occasion: Some(Occasion::Message),
        sealed: None,
    }
}

pub(super) fn decided(trace: Trace, for_person: bool) -> Decided {
    Decided {
        trace,
        joined: vec![],
        for_person,
        replies: vec![],
        transferred_until: None,
        accepted: vec![],
    }
}

/// All that was said before a message received at that time.
fn before(accepted: &Accepted, received_at: UnixMs) -> Before<'_> {
    let Accepted { message, conversation, .. } = accepted;
    Before { conversation, message: *message, received_at, since: 0, limit: 8 }
}

pub(super) fn turn(accepted: &Accepted, verdict: Verdict, reason: Reason, reply: &str) -> Trace {
    Trace {
        id: TraceId::generate(),
        conversation: accepted.conversation.clone(),
        account: AccountName("mp".into()),
        received_at: 1,
        message: "怎么退货".into(),
        context: vec![],
        generation: "g1".into(),
        understanding: Understanding::default(),
        evidence: vec![Evidence {
            id: EntryId("shop.a".into()),
            version: 1,
            question: "怎么退货".into(),
            answer: None,
            scene: Scene::Inquiry,
            domain: Domain::General,
            qualifications: Default::default(),
            phrasing: "怎么退货".into(),
            place: None,
            scores: Scores::default(),
        }],
        draft: None,
        objections: vec![],
        decision: Decision { verdict, reasons: vec![reason], confidence: 0.5, rules: vec![] },
        reply: reply.into(),
        answered_by: None,
        timings_ms: Default::default(),
    }
}

fn importing_twice_changes_nothing(store: &dyn Store) {
    assert_eq!(import_one(store, "shop.a", "怎么退货").added.len(), 1);
    let again = import_one(store, "shop.a", "怎么退货");
    assert_eq!(again, ImportOutcome { unchanged: 1, ..Default::default() });
    assert_eq!(store.entries().unwrap()[0].version, 1);
}

fn a_changed_entry_gets_the_next_version(store: &dyn Store) {
    import_one(store, "shop.a", "怎么退货");
    let outcome = import_one(store, "shop.a", "如何退货");
    assert_eq!(outcome.changed, [EntryId("shop.a".into())]);
    let entries = store.entries().unwrap();
    assert_eq!((entries.len(), entries[0].version), (1, 2));
    assert_eq!(entries[0].entry.question, "如何退货");
}

fn every_version_can_be_gone_back_to(store: &dyn Store) {
    let id = EntryId("shop.a".into());
    for question in ["怎么退货", "如何退货"] {
        import_one(store, "shop.a", question);
    }
    let back = store.roll_back(&id, 1, &change("改错了"), 7).unwrap();
    assert_eq!((back.version, back.entry.question.as_str()), (3, "怎么退货"));
    assert_eq!(store.entries().unwrap(), std::slice::from_ref(&back));
    let history = store.history(&id).unwrap();
    let told: Vec<_> = history
        .iter()
        .map(|v| (v.versioned.version, v.versioned.entry.question.as_str(), v.at))
        .collect();
    assert_eq!(told, [(1, "怎么退货", 1), (2, "如何退货", 1), (3, "怎么退货", 7)]);
    assert_eq!(history[2].change, change("改错了"));
    assert_eq!(store.roll_back(&id, 1, &change(""), 8).unwrap(), back, "nothing to change");
    assert_eq!(store.history(&id).unwrap().len(), 3);
    for (id, version) in [(id, 9), (EntryId("nobody".into()), 1)] {
        let refused = store.roll_back(&id, version, &change(""), 9);
        assert!(matches!(refused, Err(StoreError::NoSuchVersion { .. })));
    }
    assert_eq!(store.verify_audit().unwrap(), AuditState::Intact { rows: 3 });
}

fn a_document_read_again_archives_what_it_no_longer_holds(store: &dyn Store) {
    let passage = |id: &str| {
        let place =
            Place { document: "guide.md".into(), headings: vec![], page: None, range: [0, 1] };
        Entry { place: Some(place), ..entry(id, id) }
    };
    let read = |ids: &[&str]| {
        let entries = ids.iter().map(|id| passage(id)).collect();
        let document = Some("guide.md".into());
        store.import_entries(&Import { entries, document, change: change("") }, 1).unwrap()
    };
    import_one(store, "own", "怎么退货");
    assert_eq!(read(&["a", "b"]).added.len(), 2);
    let second = read(&["b", "c"]);
    assert_eq!((second.archived, second.unchanged), (vec![EntryId("a".into())], 1));
    assert_eq!(read(&["b", "c"]), ImportOutcome { unchanged: 2, ..Default::default() });
    let heads = store.heads().unwrap();
    let published = heads.iter().filter(|h| h.state == EntryState::Published);
    assert_eq!(published.map(|h| h.id.as_str()).collect::<Vec<_>>(), ["b", "c", "own"]);
}

fn what_changed_is_told_by_revision_and_heads(store: &dyn Store) {
    let before = store.revision().unwrap();
    import_one(store, "shop.a", "怎么退货");
    let first = store.revision().unwrap();
    assert!(first > before);
    import_one(store, "shop.a", "怎么退货");
    assert_eq!(store.revision().unwrap(), first, "nothing changed");
    import_one(store, "shop.a", "如何退货");
    assert!(store.revision().unwrap() > first);
    let id = EntryId("shop.a".into());
    assert_eq!(
        store.heads().unwrap(),
        [Head { id: id.clone(), version: 2, state: EntryState::Published }]
    );
    let found = store.entries_by_id(&[EntryId("nobody".into()), id]).unwrap();
    assert_eq!(found, store.entries().unwrap());
}

/// One to train on and one to calibrate with.
pub(crate) fn label_files() -> [LabelFile; 2] {
    let label = |text: &str, answer| Labelled { text: text.into(), context: vec![], answer };
    let file = |purpose: Purpose, labels| LabelFile { source: "f".into(), purpose, labels };
    let answered = label("退货", Some(EntryId("shop.a".into())));
    [
        file(Purpose::Train, vec![answered, label("天气", None)]),
        file(Purpose::Calibrate, vec![label("天气", None)]),
    ]
}

fn labels_are_kept_once_and_by_purpose(store: &dyn Store) {
    let files = label_files();
    assert_eq!(store.add_labels(&files, "tester", 1).unwrap(), [2, 1]);
    assert_eq!(store.add_labels(&files, "tester", 1).unwrap(), [0, 0]);
    assert_eq!(store.labels(Purpose::Train).unwrap(), files[0].labels);
    assert_eq!(store.labels(Purpose::Calibrate).unwrap(), files[1].labels);
}

fn a_label_that_is_said_again_is_the_last_word(store: &dyn Store) {
    use Purpose::{Calibrate, Train};
    let say = |(purpose, answer): (Purpose, &str)| {
        let answer = Some(EntryId(answer.into()));
        let label = Labelled { text: "怎么退货".into(), context: vec![], answer };
        let file = LabelFile { source: "desk".into(), purpose, labels: vec![label] };
        store.add_labels(&[file], "tester", 1).unwrap()
    };
    let last = |purpose| {
        let said = store.labels(purpose).unwrap().pop().unwrap();
        said.answer.map(|id| id.0)
    };
    assert_eq!(
        [(Train, "a"), (Train, "b"), (Train, "a"), (Train, "a")].map(say),
        [[1], [1], [1], [0]]
    );
    assert_eq!(last(Train).as_deref(), Some("a"));
    // Whoever corrects a message at the desk corrects it for the threshold, too.
    assert_eq!([(Calibrate, "c"), (Train, "b")].map(say), [[1], [1]]);
    assert_eq!([Train, Calibrate].map(last), [Some("b".into()), Some("b".into())]);
}

fn each_import_and_each_label_file_is_in_the_audit_log(store: &dyn Store) {
    import_one(store, "shop.a", "怎么退货");
    assert_eq!(store.verify_audit().unwrap(), AuditState::Intact { rows: 1 });
    store.add_labels(&label_files(), "tester", 1).unwrap();
    assert_eq!(store.verify_audit().unwrap(), AuditState::Intact { rows: 3 });
}

fn labels_are_counted_from_a_moment_on(store: &dyn Store) {
    let file = |text: &str| LabelFile {
        source: "desk.jsonl".into(),
        purpose: Purpose::Train,
        labels: vec![Labelled { text: text.into(), context: vec![], answer: None }],
    };
    store.add_labels(&[file("几点开门")], "tester", 5).unwrap();
    store.add_labels(&[file("几点关门")], "tester", 7).unwrap();
    let since = [5, 6, 7, 8].map(|at| store.labels_since(at).unwrap().len());
    assert_eq!(since, [2, 1, 1, 0]);
}

fn how_a_training_ended_is_in_the_audit_log(store: &dyn Store) {
    store.note_training("g1", "published", "daily", 1).unwrap();
    assert_eq!(store.verify_audit().unwrap(), AuditState::Intact { rows: 1 });
}

fn the_last_promise_is_remembered(store: &dyn Store) {
    assert_eq!(store.promise().unwrap(), None);
    for alpha in [0.1, 0.02] {
        let promise = Promise { alpha, confidence: 0.9 };
        store.set_promise(promise, "tester", 1).unwrap();
        assert_eq!(store.promise().unwrap(), Some(promise));
    }
    assert_eq!(store.verify_audit().unwrap(), AuditState::Intact { rows: 2 });
}

fn a_retry_finds_the_same_message(store: &dyn Store) {
    let first = store.accept(&arrival("anna", "7", "怎么退货"), 1).unwrap();
    assert_eq!(first.state, AcceptedState::New);
    let retry = store.accept(&arrival("anna", "7", "怎么退货"), 2).unwrap();
    assert_eq!((retry.message, retry.state), (first.message, AcceptedState::Undecided));
    let trace = turn(&first, Verdict::AutoReply, Reason::ConfidenceReached, "三天内。");
    store.decide(first.message, &decided(trace.clone(), false), 3).unwrap();
    let retry = store.accept(&arrival("anna", "7", "怎么退货"), 4).unwrap();
    let reply = "三天内。".to_owned();
    let verdict = Verdict::AutoReply;
    assert_eq!(retry.state, AcceptedState::Decided { trace: trace.id.clone(), verdict, reply });
    assert_eq!(store.trace(&trace.id).unwrap(), Some(trace));
}

fn the_same_id_of_another_sender_is_another_message(store: &dyn Store) {
    let anna = store.accept(&arrival("anna", "7", "怎么退货"), 1).unwrap();
    let ben = store.accept(&arrival("ben", "7", "怎么退货"), 1).unwrap();
    assert_eq!(ben.state, AcceptedState::New);
    assert_ne!(anna.conversation, ben.conversation);
}

fn a_message_is_decided_once(store: &dyn Store) {
    let accepted = store.accept(&arrival("anna", "7", "怎么退货"), 1).unwrap();
    let decide = |reply| {
        let trace = turn(&accepted, Verdict::AutoReply, Reason::ConfidenceReached, reply);
        store.decide(accepted.message, &decided(trace, false), 2)
    };
    decide("一").unwrap();
    assert!(matches!(decide("二"), Err(StoreError::AlreadyDecided(_))));
    assert_eq!(store.recent_traces(10).unwrap()[0].reply, "一");
}

fn context_is_the_conversation_before(store: &dyn Store) {
    let first = store.accept(&arrival("anna", "1", "怎么退货"), 1).unwrap();
    let trace = turn(&first, Verdict::AutoReply, Reason::ConfidenceReached, "七天内可退。");
    store.decide(first.message, &decided(trace, false), 2).unwrap();
    store.accept(&arrival("ben", "1", "你好"), 3).unwrap();
    let second = store.accept(&arrival("anna", "2", "那运费呢"), 4).unwrap();
    let before = |since, limit| Before { since, limit, ..before(&second, 4) };
    let said = store.context(&before(1, 8)).unwrap();
    let said: Vec<_> = said.iter().map(|u| (u.role, u.text.as_str())).collect();
    assert_eq!(said, [(Role::Customer, "怎么退货"), (Role::Agent, "七天内可退。")]);
    assert_eq!(store.context(&before(1, 1)).unwrap()[0].role, Role::Agent);
    assert_eq!(store.context(&before(2, 8)).unwrap(), [], "question and reply are too old");
}

fn handoffs_wait_by_priority(store: &dyn Store) {
    let open = |id: &str, verdict, reason| {
        let accepted = store.accept(&arrival(id, id, "在吗"), 1).unwrap();
        let trace = turn(&accepted, verdict, reason, "稍等");
        store.decide(accepted.message, &decided(trace, verdict != Verdict::AutoReply), 2).unwrap();
    };
    open("1", Verdict::Suggest, Reason::LowConfidence);
    open("2", Verdict::Handoff, Reason::SecurityIncident);
    open("3", Verdict::AutoReply, Reason::ConfidenceReached);
    let cases = store.open_cases(10, 3).unwrap();
    let order: Vec<_> = cases.iter().map(|c| c.trace.decision.reasons[0]).collect();
    assert_eq!(order, [Reason::SecurityIncident, Reason::LowConfidence]);
    let resolve = Act::Resolve { operator: "anna".into(), survey: None, label: None };
    store.act(&cases[0].id, &resolve, 3).unwrap();
    assert!(matches!(store.act(&cases[0].id, &resolve, 4), Err(StoreError::NoSuchCase(_))));
    assert_eq!(store.open_cases(10, 4).unwrap().len(), 1);
}

fn undecided_messages_are_found_again(store: &dyn Store) {
    let left = store.accept(&arrival("anna", "1", "怎么退货"), 5).unwrap();
    let done = store.accept(&arrival("anna", "2", "你好"), 6).unwrap();
    let trace = turn(&done, Verdict::AutoReply, Reason::Greeting, "您好");
    store.decide(done.message, &decided(trace, false), 7).unwrap();
    let found = store.unfinished().unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].message, found[0].received_at), (left.message, 5));
    assert_eq!(found[0].tries, 0);
    for _ in 0..2 {
        store.taken_up(&[left.message, done.message]).unwrap();
    }
    assert_eq!(store.unfinished().unwrap()[0].tries, 2);
}
