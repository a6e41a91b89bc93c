//! What every store must do about replies, cases and pages.

use super::{arrival, before, decided, turn};
use crate::domain::decision::{Reason, Verdict};
use crate::domain::delivery::{Author, DeliveryState, Occasion};
use crate::domain::draft::Draft;
use crate::domain::knowledge::EntryId;
use crate::domain::label::{Labelled, Purpose};
use crate::domain::message::{AccountName, Content, Role};
use crate::domain::outgoing::{Outgoing, Target};
use crate::domain::ownership::{Owner, Refused};
use crate::domain::trace::Trace;
use crate::store::outbox::{Decided, NewReply, OutboxSeq, Page, Queued, Resumption, Settled, Way};
use crate::store::queue::{Act, Speaker};
use crate::store::{Accepted, AcceptedState, Arrival, Store, StoreError};

pub(crate) const CASES: &[fn(&dyn Store)] = &[
    replies_leave_in_order_and_one_at_a_time,
    one_account_hides_no_other,
    a_clock_that_is_put_back_holds_nothing_up,
    what_may_be_there_is_repeated_as_it_left,
    a_transfer_that_fails_gives_the_conversation_back,
    a_transfer_that_nobody_took_gives_the_conversation_back,
    a_retry_jumps_no_queue_and_interrupts_nobody,
    a_retry_gets_the_answer_that_was_offered,
    a_retry_gets_the_answer_that_waits_behind_a_link,
    joined_messages_are_decided_with_the_one_that_answers_them,
    an_offer_waits_behind_what_has_not_left,
    what_was_under_way_at_the_end_is_decided_about_at_the_next_start,
    what_cannot_be_delivered_opens_its_case_once,
    a_kept_answer_is_for_its_conversation_and_for_a_time,
    one_person_has_a_conversation_and_the_bot_keeps_silent,
    a_persons_reply_is_sent_once_under_its_key,
    a_draft_for_a_person_comes_after_the_decision,
    a_person_answers_what_was_written_not_what_was_entered,
    a_person_answers_in_the_thread_where_it_was_asked,
    resolving_closes_the_conversation_and_asks,
    a_page_and_its_cursor_are_one,
    what_was_sent_counts_and_what_failed_does_not,
];

const UNKNOWN: Settled = Settled::Handed { why: Reason::DeliveryUnknown, note: "unclear" };

fn reply(sender: &str, way: Way) -> NewReply {
    let payload = Outgoing::Text("七天内。".into());
    NewReply { author: Author::Bot, target: Target::customer(sender), payload, way }
}

/// Accepts a message at 1, decides it at 2, and queues its reply.
pub(crate) fn answered(store: &dyn Store, sender: &str, id: &str, way: Way) -> (Accepted, Queued) {
    let accepted = store.accept(&arrival(sender, id, "怎么退货"), 1).unwrap();
    let trace = turn(&accepted, Verdict::AutoReply, Reason::ConfidenceReached, "七天内。");
    let decided = Decided { replies: vec![reply(sender, way)], ..decided(trace, false) };
    let queued = store.decide(accepted.message, &decided, 2).unwrap().unwrap();
    (accepted, queued)
}

/// Seqs that are due, line by line.
fn due(store: &dyn Store, now: i64) -> Vec<Vec<OutboxSeq>> {
    let lines = store.due(now, 10).unwrap();
    lines.iter().map(|line| line.rows.iter().map(|row| row.seq).collect()).collect()
}

fn replies_leave_in_order_and_one_at_a_time(store: &dyn Store) {
    let first = answered(store, "anna", "1", Way::Send).1.seq;
    let second = answered(store, "anna", "2", Way::Send).1.seq;
    let other = answered(store, "ben", "1", Way::Send).1.seq;
    assert_eq!(due(store, 1), Vec::<Vec<_>>::new(), "not before its time");
    assert_eq!(due(store, 2), [vec![first, second], vec![other]]);
    assert!(store.begin_send(&[first], 3).unwrap());
    assert!(!store.begin_send(&[first], 3).unwrap(), "it is under way");
    assert_eq!(due(store, 3), [vec![other]], "the second waits for the first");
    store.settle(&[first], Settled::Again { at: 9, note: "busy", unclear: false }, 4).unwrap();
    assert_eq!(due(store, 8), [vec![other]], "and does not overtake it in its pause");
    assert_eq!(due(store, 9).len(), 2);
    assert!(store.begin_send(&[first, second], 9).unwrap());
    store.settle(&[first, second], Settled::Delivered, 10).unwrap();
    assert_eq!(due(store, 10), [vec![other]]);
    assert_eq!(store.outbox_counts().unwrap().waiting, 1);
}

/// As [`answered`], on another account than the others and decided at `now`.
fn answered_elsewhere(store: &dyn Store, sender: &str, now: i64) -> Queued {
    let account = AccountName("other".into());
    let mut arrival = arrival(sender, "1", "怎么退货");
    arrival.inbound.account = account.clone();
    let accepted = store.accept(&arrival, 1).unwrap();
    let trace = turn(&accepted, Verdict::AutoReply, Reason::ConfidenceReached, "七天内。");
    let trace = Trace { account, ..trace };
    let decided = Decided { replies: vec![reply(sender, Way::Send)], ..decided(trace, false) };
    store.decide(accepted.message, &decided, now).unwrap().unwrap()
}

fn one_account_hides_no_other(store: &dyn Store) {
    let many: Vec<OutboxSeq> =
        (0..100).map(|n| answered(store, &format!("c{n}"), "1", Way::Send).1.seq).collect();
    let younger = answered_elsewhere(store, "ben", 3).seq;
    let found: Vec<OutboxSeq> = due(store, 3).into_iter().flatten().collect();
    assert_eq!(found.len(), 10, "no more than was asked for");
    assert!(found.contains(&younger), "{found:?}");
    assert_eq!(found[0], many[0], "the longest due is first");
    assert!(many[1..9].iter().all(|seq| found.contains(seq)), "in their order: {found:?}");
}

fn a_clock_that_is_put_back_holds_nothing_up(store: &dyn Store) {
    const HOUR: i64 = 3_600_000;
    let sent = answered(store, "anna", "1", Way::Send).1.seq;
    assert!(store.begin_send(&[sent], 3).unwrap());
    store
        .settle(&[sent], Settled::Again { at: HOUR, note: "busy", unclear: false }, HOUR - 500)
        .unwrap();
    assert_eq!(due(store, HOUR - 500), Vec::<Vec<_>>::new(), "a pause is kept");
    assert_eq!(due(store, 0), [vec![sent]], "an hour is no pause");
    let kept = answered(store, "ben", "1", Way::Keep { until: HOUR }).1.seq;
    assert_eq!(store.expire(0).unwrap(), 0, "the customer may still tap the link");
    assert_eq!(due(store, 0), [vec![sent]]);
    assert_eq!(store.expire(HOUR).unwrap(), 1, "{kept:?}");
}

fn what_may_be_there_is_repeated_as_it_left(store: &dyn Store) {
    let first = answered(store, "anna", "1", Way::Send).1;
    let second = answered(store, "anna", "2", Way::Send).1.seq;
    let left_with = |now| -> Vec<Option<OutboxSeq>> {
        store.due(now, 10).unwrap()[0].rows.iter().map(|row| row.left_with).collect()
    };
    let rows = [first.seq, second];
    let again = |unclear| Settled::Again { at: 4, note: "again", unclear };
    assert!(store.begin_send(&rows, 3).unwrap());
    store.settle(&rows, again(false), 4).unwrap();
    assert_eq!(left_with(4), [None, None], "it is known not to be there: all may change");
    assert!(store.begin_send(&rows, 5).unwrap());
    store.settle(&rows, again(true), 6).unwrap();
    let third = answered(store, "anna", "3", Way::Send).1;
    assert_eq!(left_with(6), [Some(first.seq), Some(first.seq), None], "{third:?} comes after");
    let sent = store.contact(&first.conversation).unwrap().sent;
    assert_eq!(sent, [5], "the platform may have counted it");
    store.settle(&rows[..1], UNKNOWN, 7).unwrap();
    assert_eq!(store.contact(&first.conversation).unwrap().sent, [5]);
}

/// A message whose callback gives its customer to the platform's desk.
fn transferred(store: &dyn Store) -> (Accepted, Queued) {
    let accepted = store.accept(&arrival("anna", "1", "转人工"), 1).unwrap();
    let trace = turn(&accepted, Verdict::Handoff, Reason::HumanRequest, "");
    let transfer =
        NewReply { payload: Outgoing::Transfer, ..reply("anna", Way::Offer { may_send: false }) };
    let decided = Decided {
        replies: vec![transfer],
        transferred_until: Some(99_000),
        ..decided(trace, false)
    };
    let queued = store.decide(accepted.message, &decided, 2).unwrap().unwrap();
    (accepted, queued)
}

fn a_transfer_that_nobody_took_gives_the_conversation_back(store: &dyn Store) {
    let (accepted, queued) = transferred(store);
    store.retract(queued.seq, 3).unwrap();
    assert!(store.offer_again(accepted.message, 3).unwrap().is_some(), "a retry may take it");
    store.retract(queued.seq, 3).unwrap();
    assert_eq!(due(store, 3), [vec![queued.seq]]);
    assert!(!store.begin_send(&[queued.seq], 3).unwrap(), "it cannot be sent");
    assert_eq!(store.owner(&accepted.conversation, 3).unwrap(), Owner::Bot);
    let case = store.open_cases(9, 3).unwrap().remove(0);
    assert_eq!(case.note, Some(Reason::SendFailed));
    store.act(&case.id, &claim("eva", 100), 4).unwrap();
}

fn a_transfer_that_fails_gives_the_conversation_back(store: &dyn Store) {
    let (accepted, queued) = transferred(store);
    let owner = || store.owner(&accepted.conversation, 3).unwrap();
    let theirs = Settled::Handed { why: Reason::PersonOwns, note: "at_the_platforms_desk" };
    store.settle(&[queued.seq], theirs, 3).unwrap();
    assert_eq!(owner(), Owner::Platform { until: 99_000 }, "they have it indeed");
    store.settle(&[queued.seq], UNKNOWN, 3).unwrap();
    assert_eq!(owner(), Owner::Bot, "a person of ours can take it, and the bot hears it");
}

fn a_retry_jumps_no_queue_and_interrupts_nobody(store: &dyn Store) {
    answered(store, "anna", "1", Way::Send);
    let (second, _) = answered(store, "anna", "2", Way::Send);
    assert_eq!(store.offer_again(second.message, 3).unwrap(), None, "the first is before it");
    let (theirs, _) = answered(store, "ben", "1", Way::Send);
    assert!(store.offer_again(theirs.message, 3).unwrap().is_some());
}

fn a_retry_gets_the_answer_that_was_offered(store: &dyn Store) {
    let (accepted, queued) = answered(store, "anna", "1", Way::Offer { may_send: true });
    assert_eq!(queued.state, DeliveryState::Offered);
    let again = || store.offer_again(accepted.message, 3).unwrap();
    assert_eq!(again().unwrap().key, queued.key);
    store.confirm(queued.seq).unwrap();
    assert_eq!(again().unwrap().payload, queued.payload, "the platform did not get it");
    assert_eq!(due(store, 99), Vec::<Vec<_>>::new());
    let (accepted, late) = answered(store, "anna", "2", Way::Send);
    assert!(store.begin_send(&[late.seq], 3).unwrap());
    assert_eq!(store.offer_again(accepted.message, 3).unwrap(), None, "it leaves another way");
}

fn a_retry_gets_the_answer_that_waits_behind_a_link(store: &dyn Store) {
    let (anna, queued) = answered(store, "anna", "1", Way::Keep { until: 50 });
    let again = store.offer_again(anna.message, 3).unwrap().unwrap();
    assert_eq!((again.key, again.state), (queued.key.clone(), DeliveryState::Offered));
    let fetched = store.fetch_kept(anna.message, &anna.conversation, 4).unwrap();
    assert_eq!(fetched.unwrap().key, queued.key, "a link that came all the same leads to it");
    let (ben, _) = answered(store, "ben", "1", Way::Keep { until: 50 });
    case_of(store, "ben");
    let case = store.open_cases(9, 2).unwrap()[0].id.clone();
    store.act(&case, &claim("eva", 100), 10).unwrap();
    assert_eq!(store.offer_again(ben.message, 11).unwrap(), None, "eva has the conversation");
}

fn joined_messages_are_decided_with_the_one_that_answers_them(store: &dyn Store) {
    let accepted = |id, said| store.accept(&arrival("anna", id, said), 1).unwrap();
    let (first, last) = (accepted("1", "那个退货"), accepted("2", "运费谁出"));
    let answer = |to: &Accepted| {
        let trace = turn(to, Verdict::AutoReply, Reason::ConfidenceReached, "七天内。");
        let silent = turn(&first, Verdict::AutoReply, Reason::Notice, "");
        let silent = Trace { answered_by: Some(trace.id.clone()), ..silent };
        let replies = vec![reply("anna", Way::Keep { until: 99 })];
        Decided { joined: vec![(first.message, silent)], replies, ..decided(trace, false) }
    };
    let queued = store.decide(last.message, &answer(&last), 2).unwrap().unwrap();
    assert_eq!(store.unfinished().unwrap(), []);
    let again = accepted("1", "那个退货");
    assert!(matches!(again.state, AcceptedState::Decided { reply, .. } if reply.is_empty()));
    assert_eq!(store.offer_again(first.message, 3).unwrap(), None, "it is only acknowledged");
    let kept = store.fetch_kept(first.message, &first.conversation, 3).unwrap().unwrap();
    assert_eq!(kept.key, queued.key, "a link that was given for it leads to the answer");
    let fates = store.fates(&AccountName("mp".into()), 0).unwrap();
    let joined: Vec<bool> = fates.into_iter().map(|fate| fate.decided.unwrap().joined).collect();
    assert_eq!(joined, [true, false]);
    let third = accepted("3", "多久");
    let twice = store.decide(third.message, &answer(&third), 4);
    assert!(matches!(twice, Err(StoreError::AlreadyDecided(_))));
    assert_eq!(store.unfinished().unwrap().len(), 1, "all of it or nothing");
}

fn an_offer_waits_behind_what_has_not_left(store: &dyn Store) {
    let first = answered(store, "anna", "1", Way::Send).1;
    let second = answered(store, "anna", "2", Way::Offer { may_send: true }).1;
    assert_eq!(second.state, DeliveryState::Pending);
    let third = answered(store, "anna", "3", Way::Offer { may_send: false }).1;
    assert_eq!(third.state, DeliveryState::Offered, "or it would never leave");
    store.retract(third.seq, 5).unwrap();
    assert_eq!(due(store, 5), [vec![first.seq, second.seq, third.seq]]);
}

fn what_was_under_way_at_the_end_is_decided_about_at_the_next_start(store: &dyn Store) {
    let of = |account: &str, repeats, asks_again| Resumption {
        account: AccountName(account.into()),
        repeats,
        asks_again,
    };
    let (_, once) = answered(store, "anna", "1", Way::Send);
    assert!(store.begin_send(&[once.seq], 3).unwrap());
    store.resume(&[of("mp", true, false)], 4).unwrap();
    assert_eq!(due(store, 4), [vec![once.seq]], "the platform knows it by its key");
    assert!(store.begin_send(&[once.seq], 5).unwrap());
    store.resume(&[of("mp", false, false)], 6).unwrap();
    let case = &store.open_cases(9, 6).unwrap()[0];
    assert_eq!(case.note, Some(Reason::DeliveryUnknown), "once more could be twice");

    let offer = Way::Offer { may_send: false };
    let (_, offered) = answered(store, "ben", "1", offer);
    store.resume(&[of("mp", false, true)], 1_000).unwrap();
    assert_eq!(store.expire(17_000).unwrap(), 1);
    let heard = store.open_cases(9, 17_000).unwrap().len();
    assert_eq!(heard, 1, "the platform never asked again, so it had the answer");
    let (_, unheard) = answered(store, "cleo", "1", offer);
    store.resume(&[of("mp", false, true)], 20_000).unwrap();
    assert_eq!(store.open_cases(9, 20_000).unwrap().len(), 2, "it may have asked meanwhile");
    let states: Vec<_> = store.undelivered(9).unwrap().iter().map(|q| q.seq).collect();
    assert_eq!(states, [unheard.seq, once.seq]);
    assert!(offered.seq < unheard.seq);
}

fn what_cannot_be_delivered_opens_its_case_once(store: &dyn Store) {
    let (accepted, queued) = answered(store, "anna", "1", Way::Send);
    assert!(store.begin_send(&[queued.seq], 3).unwrap());
    let handed = Settled::Handed { why: Reason::WindowClosed, note: "window_closed" };
    store.settle(&[queued.seq], handed, 4).unwrap();
    store.settle(&[queued.seq], handed, 5).unwrap();
    let cases = store.open_cases(9, 5).unwrap();
    assert_eq!((cases.len(), cases[0].note), (1, Some(Reason::WindowClosed)));
    assert_eq!(cases[0].conversation, accepted.conversation);
    let dead = &store.undelivered(9).unwrap()[0];
    assert_eq!((dead.state, dead.note.as_str()), (DeliveryState::Handed, "window_closed"));
}

fn a_kept_answer_is_for_its_conversation_and_for_a_time(store: &dyn Store) {
    let (anna, queued) = answered(store, "anna", "1", Way::Keep { until: 50 });
    let (ben, _) = answered(store, "ben", "1", Way::Keep { until: 50 });
    assert_eq!(due(store, 40), Vec::<Vec<_>>::new());
    let fetch = |of: &Accepted| store.fetch_kept(anna.message, &of.conversation, 9).unwrap();
    assert_eq!(fetch(&ben), None);
    assert_eq!(fetch(&anna).unwrap().key, queued.key);
    store.confirm(queued.seq).unwrap();
    assert_eq!(fetch(&anna).unwrap().key, queued.key, "a tap is repeated like any message");
    assert_eq!(store.expire(50).unwrap(), 1);
    assert_eq!(store.open_cases(9, 50).unwrap()[0].note, Some(Reason::NotFetched));
}

fn claim(operator: &str, until: i64) -> Act {
    Act::Claim { operator: operator.into(), until }
}

/// A conversation with one open case; its latest message.
fn case_of(store: &dyn Store, sender: &str) -> Accepted {
    let accepted = store.accept(&arrival(sender, "case", "转人工"), 1).unwrap();
    let trace = turn(&accepted, Verdict::Handoff, Reason::HumanRequest, "稍等");
    store.decide(accepted.message, &decided(trace, true), 2).unwrap();
    accepted
}

fn one_person_has_a_conversation_and_the_bot_keeps_silent(store: &dyn Store) {
    let pending = answered(store, "anna", "1", Way::Send).1;
    let accepted = case_of(store, "anna");
    let case = store.open_cases(9, 2).unwrap()[0].id.clone();
    let owner = store.act(&case, &claim("eva", 100), 10).unwrap();
    assert_eq!(owner, Owner::Person { operator: "eva".into(), until: 100 });
    let held = store.act(&case, &claim("max", 100), 11);
    assert!(matches!(held, Err(StoreError::Refused(Refused::Held { .. }))));
    assert!(!store.begin_send(&[pending.seq], 12).unwrap(), "the bot waited too long");
    assert_eq!(store.open_cases(9, 12).unwrap().len(), 2, "and its answer is eva's to judge");

    let next = store.accept(&arrival("anna", "2", "还有运费"), 13).unwrap();
    let trace = turn(&next, Verdict::AutoReply, Reason::ConfidenceReached, "七天内。");
    let speaking = Decided { replies: vec![reply("anna", Way::Send)], ..decided(trace, false) };
    let refused = store.decide(next.message, &speaking, 14);
    assert!(matches!(refused, Err(StoreError::NotTheBots(_))));
    assert_eq!(store.unfinished().unwrap().len(), 1, "nothing of it was written");
    let payload = Outgoing::Text("我来帮您".into());
    let say = |operator: &str| Act::Reply {
        operator: operator.into(),
        until: 200,
        payload: payload.clone(),
        key: None,
    };
    assert!(store.act(&case, &say("max"), 15).is_err());
    store.act(&case, &say("eva"), 15).unwrap();
    let said = store.due(16, 9).unwrap().remove(0).rows.remove(0);
    assert_eq!((said.author, &said.payload), (Author::Person, &payload));
    let later = store.accept(&arrival("anna", "3", "好的"), 17).unwrap();
    let context = store.context(&before(&later, 17)).unwrap();
    let last = context.last().unwrap();
    assert_eq!((last.role, last.text.as_str()), (Role::Agent, "我来帮您"));

    assert_eq!(store.owner(&accepted.conversation, 199).unwrap().at(199), owner_of("eva"));
    assert_eq!(store.owner(&accepted.conversation, 200).unwrap(), Owner::Bot, "time is up");
    store.decide(next.message, &speaking, 201).unwrap();
}

fn a_draft_for_a_person_comes_after_the_decision(store: &dyn Store) {
    case_of(store, "anna");
    let case = store.open_cases(9, 2).unwrap().remove(0);
    let draft = Draft::verbatim(EntryId("shop.a".into()), "七天内。".into());
    store.propose(&case.trace.id, &draft, &[]).unwrap();
    let shown = store.case(&case.id, 3).unwrap().unwrap().trace;
    assert_eq!(shown, Trace { draft: Some(draft), ..case.trace }, "and nothing else is changed");
}

fn says(text: &str, key: &str) -> Act {
    let payload = Outgoing::Text(text.into());
    Act::Reply { operator: "eva".into(), until: 200, payload, key: Some(key.into()) }
}

fn a_persons_reply_is_sent_once_under_its_key(store: &dyn Store) {
    case_of(store, "anna");
    let case = store.open_cases(9, 2).unwrap()[0].id.clone();
    store.act(&case, &says("在", "k1"), 10).unwrap();
    store.act(&case, &says("在", "k1"), 11).unwrap();
    let other = store.act(&case, &says("不在", "k1"), 12);
    assert!(matches!(other, Err(StoreError::KeyUsed)), "nothing is swallowed: {other:?}");
    store.act(&case, &says("在", "k2"), 13).unwrap();
    let rows = store.due(20, 9).unwrap().remove(0).rows;
    assert_eq!(rows.len(), 2, "one of each key");
    assert_ne!(rows[0].key, rows[1].key);
    assert!(rows.iter().all(|row| row.key.len() == 32), "as kf wants it");
    // Keys are a case's own.
    case_of(store, "ben");
    let theirs = store.open_cases(9, 14).unwrap().into_iter().find(|found| found.id != case);
    store.act(&theirs.unwrap().id, &says("您好", "k1"), 15).unwrap();
}

fn a_person_answers_what_was_written_not_what_was_entered(store: &dyn Store) {
    case_of(store, "anna");
    let case = store.open_cases(9, 2).unwrap()[0].id.clone();
    let written = store.case(&case, 2).unwrap().unwrap().target.unwrap();
    let mut entered = arrival("anna", "9", "");
    entered.inbound.content = Content::Event { name: "im_enter_direct_msg".into(), key: None };
    entered.target = Some(Target { code: Some("im_enter".into()), ..Target::customer("anna") });
    store.accept(&entered, 5).unwrap();
    store.act(&case, &says("在", "k1"), 10).unwrap();
    assert_eq!(store.due(20, 9).unwrap()[0].rows[0].target, written);
}

fn a_person_answers_in_the_thread_where_it_was_asked(store: &dyn Store) {
    let at = |desk: &str, id: &str| {
        let target = Target { thread: Some(desk.into()), ..Target::customer("anna") };
        let arrival = arrival("anna", id, "转人工");
        let target = Some(Target { message: Some(id.into()), ..target });
        store.accept(&Arrival { target, ..arrival }, 1).unwrap()
    };
    let asked = at("sales", "1");
    let trace = turn(&asked, Verdict::Handoff, Reason::HumanRequest, "稍等");
    store.decide(asked.message, &decided(trace, true), 2).unwrap();
    at("sales", "2");
    at("returns", "3");
    let case = store.open_cases(9, 2).unwrap()[0].id.clone();
    store.act(&case, &says("在", "k1"), 10).unwrap();
    let target = &store.due(20, 9).unwrap()[0].rows[0].target;
    assert_eq!((target.thread.as_deref(), target.message.as_deref()), (Some("sales"), Some("2")));
}

fn owner_of(operator: &str) -> Owner {
    Owner::Person { operator: operator.into(), until: 200 }
}

fn resolving_closes_the_conversation_and_asks(store: &dyn Store) {
    let accepted = case_of(store, "anna");
    let case = store.open_cases(9, 2).unwrap()[0].id.clone();
    store.act(&case, &claim("eva", 100), 10).unwrap();
    let survey = Outgoing::Text("您满意吗？".into());
    let label = Labelled { text: "转人工".into(), context: Vec::new(), answer: None };
    let resolve = |operator: &str| Act::Resolve {
        operator: operator.into(),
        survey: Some(survey.clone()),
        label: Some(label.clone()),
    };
    assert!(store.act(&case, &resolve("max"), 11).is_err());
    assert_eq!(store.labels(Purpose::Train).unwrap(), [], "nothing of a refused act is kept");
    assert_eq!(store.act(&case, &resolve("eva"), 12).unwrap(), Owner::Bot);
    assert_eq!(store.labels(Purpose::Train).unwrap(), std::slice::from_ref(&label));
    assert_eq!(store.open_cases(9, 12).unwrap().len(), 0);
    let asked = store.due(12, 9).unwrap().remove(0).rows.remove(0);
    assert_eq!((asked.author, asked.payload), (Author::Courtesy, survey));
    let conversation = &accepted.conversation;
    assert_eq!(store.open_survey(conversation, 0).unwrap(), None, "not asked yet");
    assert!(store.begin_send(&[asked.seq], 13).unwrap());
    store.settle(&[asked.seq], Settled::Delivered, 14).unwrap();
    assert_eq!(store.open_survey(conversation, 0).unwrap(), Some(case.clone()));
    let ben = case_of(store, "ben");
    assert!(!store.rate(&case, &ben.conversation, 3, 15).unwrap(), "another's case");
    assert!(store.rate(&case, conversation, 3, 15).unwrap());
    assert!(!store.rate(&case, conversation, 1, 16).unwrap(), "once");
    assert_eq!(store.case(&case, 16).unwrap().unwrap().rating, Some(3));
    let spoken = store.spoken(conversation, 9).unwrap();
    let lines: Vec<_> = spoken.iter().map(|s| (s.speaker.clone(), s.text.as_str())).collect();
    let us = Speaker::Us(Author::Bot);
    let courtesy = Speaker::Us(Author::Courtesy);
    assert_eq!(lines[..2], [(Speaker::Customer, "转人工"), (us, "稍等")]);
    assert_eq!(lines[2], (courtesy, "您满意吗？"));
}

fn a_page_and_its_cursor_are_one(store: &dyn Store) {
    let account = AccountName("mp".into());
    store.want_fetch(&account, "kf1", "t1").unwrap();
    let (_, sent) = answered(store, "anna", "1", Way::Send);
    assert!(store.begin_send(&[sent.seq], 3).unwrap());
    store.settle(&[sent.seq], Settled::Delivered, 4).unwrap();
    let page = Page {
        messages: vec![arrival("anna", "2", "在吗"), arrival("ben", "1", "你好")],
        failures: vec![
            (sent.key.clone(), Reason::QuotaUsed),
            ("unknown".into(), Reason::QuotaUsed),
        ],
        sessions: vec![("ben".into(), Some(500)), ("nobody".into(), None)],
        next: "c1".into(),
        complete: None,
    };
    let taken = store.take_page(&account, "kf1", &page, 5).unwrap();
    assert!(taken.iter().all(|(_, accepted)| accepted.state == AcceptedState::New));
    let again = store.take_page(&account, "kf1", &page, 6).unwrap();
    assert!(again.iter().all(|(_, accepted)| accepted.state == AcceptedState::Undecided));
    assert_eq!(store.unfinished().unwrap().len(), 2);
    assert_eq!(store.open_cases(9, 6).unwrap()[0].note, Some(Reason::QuotaUsed));
    let at_desk = Owner::Platform { until: 500 };
    assert_eq!(store.owner(&taken[1].1.conversation, 6).unwrap(), at_desk);
    let cursor = store.to_fetch().unwrap().remove(0);
    assert_eq!((cursor.cursor.as_str(), cursor.token.as_str(), cursor.wanted), ("c1", "t1", 1));
    store.want_fetch(&account, "kf1", "t2").unwrap();
    let last = Page { next: "c2".into(), complete: Some(cursor.wanted), ..Page::default() };
    store.take_page(&account, "kf1", &last, 7).unwrap();
    let cursor = store.to_fetch().unwrap().remove(0);
    assert_eq!((cursor.cursor.as_str(), cursor.wanted), ("c2", 2), "a callback came meanwhile");
    let done = Page { next: "c3".into(), complete: Some(2), ..Page::default() };
    store.take_page(&account, "kf1", &done, 8).unwrap();
    assert_eq!(store.to_fetch().unwrap(), []);
}

fn what_was_sent_counts_and_what_failed_does_not(store: &dyn Store) {
    let (accepted, first) = answered(store, "anna", "1", Way::Send);
    let second = answered(store, "anna", "2", Way::Send).1;
    let offered = answered(store, "anna", "3", Way::Offer { may_send: false }).1;
    store.confirm(offered.seq).unwrap();
    assert!(store.begin_send(&[first.seq], 5).unwrap());
    store.settle(&[first.seq], Settled::Delivered, 6).unwrap();
    assert!(store.begin_send(&[second.seq], 7).unwrap());
    store.settle(&[second.seq], Settled::Again { at: 9, note: "busy", unclear: false }, 8).unwrap();
    let contact = store.contact(&accepted.conversation).unwrap();
    assert_eq!(contact.sent, [5], "an answer to a callback is no send");
    assert_eq!(contact.occasions, [(Occasion::Message, 1)]);
}
