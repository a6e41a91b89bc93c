//! What every store must do with what was masked: keep the bytes with their message, and say who saw.

use super::{arrival, decided, turn};
use crate::base::id::{CaseId, TraceId};
use crate::domain::decision::{Reason, Verdict};
use crate::store::personal::Whose;
use crate::store::{Accepted, Arrival, AuditState, Store};

fn sealed(sender: &str, id: &str, sealed: &[u8]) -> Arrival {
    Arrival { sealed: Some(sealed.to_vec()), ..arrival(sender, id, "电话⟨手机号⟩") }
}

/// Decides it, with a case.
fn hand_over(store: &dyn Store, accepted: &Accepted) -> TraceId {
    let trace = turn(accepted, Verdict::Handoff, Reason::HumanRequest, "请稍候。");
    store.decide(accepted.message, &decided(trace.clone(), true), 2).unwrap();
    trace.id
}

pub(super) fn what_was_sealed_is_kept_with_its_message(store: &dyn Store) {
    let accepted = store.accept(&sealed("anna", "1", b"first"), 1).unwrap();
    // A retry is sealed anew; the message is there already.
    store.accept(&sealed("anna", "1", b"second"), 2).unwrap();
    let whose = Whose::Turn(hand_over(store, &accepted));
    let kept = store.kept(&whose).unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!((kept[0].message, &kept[0].sealed[..]), (accepted.message, &b"first"[..]));
    assert_eq!(kept[0].inbound, sealed("anna", "1", b"").inbound);
    let without = store.accept(&arrival("anna", "2", "在吗"), 3).unwrap();
    let whose = Whose::Turn(hand_over(store, &without));
    assert!(store.kept(&whose).unwrap().is_empty());
    assert!(store.kept(&Whose::Turn(TraceId::from_text("none"))).unwrap().is_empty());
    let huge = sealed("anna", "3", &[0; 9_000]);
    assert!(store.accept(&huge, 4).is_err(), "more than the vault keeps of a message");
}

pub(super) fn a_case_has_its_whole_conversation(store: &dyn Store) {
    store.accept(&sealed("anna", "1", b"1"), 1).unwrap();
    store.accept(&sealed("ben", "1", b"another's"), 1).unwrap();
    let asked = store.accept(&arrival("anna", "2", "转人工"), 2).unwrap();
    hand_over(store, &asked);
    store.accept(&sealed("anna", "3", b"3"), 3).unwrap();
    let case = store.open_cases(1, 4).unwrap()[0].id.clone();
    let kept = store.kept(&Whose::Case(case)).unwrap();
    let found: Vec<_> = kept.iter().map(|kept| &kept.sealed[..]).collect();
    assert_eq!(found, [b"1", b"3"], "oldest first");
    assert!(store.kept(&Whose::Case(CaseId::from_text("none"))).unwrap().is_empty());
}

pub(super) fn whoever_has_it_shown_is_in_the_audit_log(store: &dyn Store) {
    let accepted = store.accept(&sealed("anna", "1", b"1"), 1).unwrap();
    let whose = Whose::Turn(hand_over(store, &accepted));
    let rows = || match store.verify_audit().unwrap() {
        AuditState::Intact { rows } => rows,
        AuditState::BrokenAt { seq } => panic!("broken at {seq}"),
    };
    let before = rows();
    store.note_shown(&whose, &[accepted.message], "eva", 3).unwrap();
    assert_eq!(rows(), before + 1);
}
