//! The store's release against a model of it that fits on a page.

use proptest::prelude::*;

use super::*;
use crate::domain::knowledge::Nature;
use crate::domain::release::{Refused, Voice};
use crate::store::{AuditState, Import, Store};

const PEOPLE: [&str; 3] = ["Li Na", "wang", "WANG "];

#[derive(Clone, Debug)]
enum Act {
    Import {
        text: u8,
        nature: Nature,
        state: EntryState,
    },
    /// To a version that there is, counted from the newest.
    RollBack {
        back: u32,
    },
    Vote {
        role: Role,
        voice: Voice,
        person: usize,
        stale: bool,
    },
}

fn act() -> impl Strategy<Value = Act> {
    let state = prop_oneof![
        4 => Just(EntryState::Published),
        1 => Just(EntryState::Draft),
        1 => Just(EntryState::Archived),
        1 => Just(EntryState::Pending),
    ];
    let nature = prop_oneof![3 => Just(Nature::Marketing), 1 => Just(Nature::Service)];
    let role = prop_oneof![Just(Role::Legal), Just(Role::Brand)];
    let voice = prop_oneof![5 => Just(Voice::Approve), 1 => Just(Voice::Reject)];
    prop_oneof![
        2 => (0..3_u8, nature, state)
            .prop_map(|(text, nature, state)| Act::Import { text, nature, state }),
        1 => (0..4_u32).prop_map(|back| Act::RollBack { back }),
        6 => (role, voice, 0..PEOPLE.len(), prop::bool::weighted(0.1)).prop_map(
            |(role, voice, person, stale)| Act::Vote { role, voice, person, stale }
        ),
    ]
}

/// What one version says; the third text makes a claim that the rules find.
type Said = (u8, Nature, EntryState);

fn entry((text, nature, state): Said) -> Entry {
    let answer = ["周末有活动。", "周末没有活动。", "本店全网最低价。"][text as usize];
    Entry {
        answer: Some(answer.into()),
        nature,
        state,
        ..Entry::new(EntryId("shop.promo".into()), "周末有活动吗".into())
    }
}

/// The model: versions in their order, who approved the last one, how many lines were logged.
#[derive(Debug, Default)]
struct Model {
    versions: Vec<Said>,
    /// Versions, counted from 1, that two people let out.
    released: Vec<usize>,
    approved: Vec<(Role, usize)>,
    logged: i64,
}

impl Model {
    /// True when a version was made.
    fn put(&mut self, said: Said) -> bool {
        let (text, nature, state) = said;
        let claims = nature == Nature::Marketing || text == 2;
        let kept = match state {
            EntryState::Published if claims => (text, nature, EntryState::Pending),
            EntryState::Published
            | EntryState::Draft
            | EntryState::Archived
            | EntryState::Pending => said,
        };
        let last = self.versions.last();
        if last == Some(&said) || last == Some(&kept) {
            return false;
        }
        self.make(kept);
        self.logged += i64::from(kept.2 == EntryState::Pending);
        true
    }

    fn make(&mut self, said: Said) {
        self.versions.push(said);
        self.approved.clear();
    }

    /// Whether the vote counts.
    fn vote(&mut self, role: Role, voice: Voice, person: usize) -> bool {
        let Some(&(text, nature, EntryState::Pending)) = self.versions.last() else { return false };
        if voice == Voice::Reject {
            self.make((text, nature, EntryState::Draft));
            self.logged += 1;
            return true;
        }
        // The second and third name are one person's.
        let same = |other: usize| other.min(1) == person.min(1);
        if self.approved.iter().any(|(r, p)| *r == role || same(*p)) {
            return false;
        }
        self.approved.push((role, person));
        self.logged += 1;
        if self.approved.len() == Role::ALL.len() {
            self.make((text, nature, EntryState::Published));
            self.released.push(self.versions.len());
            self.logged += 1;
        }
        true
    }
}

fn change() -> Change {
    Change::by("anna", "test")
}

/// Does it to the store and to the model; they must agree that it can be done.
fn play(store: &SqliteStore, model: &mut Model, act: &Act) -> Result<(), TestCaseError> {
    let id = EntryId("shop.promo".into());
    match act {
        Act::Import { text, nature, state } => {
            let said = (*text, *nature, *state);
            let import = Import::of(vec![entry(said)], change());
            let outcome = store.import_entries(&import, 1).unwrap();
            let made = model.put(said);
            model.logged += 1;
            prop_assert_eq!(outcome.unchanged == 0, made);
            let waits = made && model.versions.last().unwrap().2 == EntryState::Pending;
            prop_assert_eq!(outcome.held.len(), usize::from(waits));
        }
        Act::RollBack { back } => {
            let Some(to) = (model.versions.len() as u32).checked_sub(*back).filter(|v| *v > 0)
            else {
                return Ok(());
            };
            store.roll_back(&id, to, &change(), 1).unwrap();
            let made = model.put(model.versions[to as usize - 1]);
            model.logged += i64::from(made);
        }
        Act::Vote { role, voice, person, stale } => {
            let newest = model.versions.len() as u32;
            let read = if *stale { newest.wrapping_sub(1) } else { newest };
            let vote = Vote {
                role: *role,
                voice: *voice,
                person: PEOPLE[*person].into(),
                reason: "读过".into(),
            };
            let voted = store.vote(&id, Some(read), &vote, 1);
            let counts = !*stale && model.vote(*role, *voice, *person);
            prop_assert_eq!(voted.is_ok(), counts, "{:?}", voted);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn the_store_does_what_the_model_does(acts in proptest::collection::vec(act(), 1..24)) {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("huida.db")).unwrap();
        let mut model = Model::default();
        for act in &acts {
            play(&store, &mut model, act)?;
            let stored = store.entries().unwrap().pop();
            let expected = model.versions.last().map(|said| (model.versions.len() as u32, entry(*said)));
            prop_assert_eq!(stored.map(|v| (v.version, v.entry)), expected);
            let consents = store.unreleased().unwrap().pop().map_or(0, |w| w.consents.len());
            prop_assert_eq!(consents, model.approved.len());
            prop_assert_eq!(store.verify_audit().unwrap(), AuditState::Intact { rows: model.logged });
            // What the machine is for.
            for (at, (text, nature, state)) in (1..).zip(&model.versions) {
                let claims = *nature == Nature::Marketing || *text == 2;
                let out = *state == EntryState::Published && claims;
                prop_assert!(!out || model.released.contains(&at));
            }
        }
    }
}

#[test]
fn a_vote_that_does_not_count_says_why_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&dir.path().join("huida.db")).unwrap();
    let said = (0, Nature::Marketing, EntryState::Published);
    store.import_entries(&Import::of(vec![entry(said)], change()), 1).unwrap();
    let id = EntryId("shop.promo".into());
    let vote = |role, person: &str| Vote {
        role,
        voice: Voice::Approve,
        person: person.into(),
        reason: String::new(),
    };
    let other = store.vote(&id, Some(9), &vote(Role::Legal, "Li"), 1);
    assert!(matches!(other, Err(StoreError::OtherVersion { read: 9, waiting: 1, .. })));
    let nobody = store.vote(&EntryId("x".into()), None, &vote(Role::Legal, "Li"), 1);
    assert!(matches!(nobody, Err(StoreError::NotWaiting(_))));
    store.vote(&id, None, &vote(Role::Legal, "Li"), 1).unwrap();
    let before = store.verify_audit().unwrap();
    let same = store.vote(&id, None, &vote(Role::Brand, "li"), 1);
    assert!(matches!(same, Err(StoreError::Vote(Refused::SamePerson { .. }))));
    assert_eq!(store.verify_audit().unwrap(), before);
    let done = store.vote(&id, Some(1), &vote(Role::Brand, "Wang"), 1).unwrap();
    assert_eq!(done, Voted { on: 1, step: Step::Released, version: 2 });
    let history = store.history(&id).unwrap();
    assert_eq!(history[1].change.author, "Li (legal), Wang (brand)");
    assert_eq!(history[1].change.source, "release of version 1");
}

#[test]
fn a_document_is_replaced_by_its_id_and_each_filing_is_logged() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&dir.path().join("huida.db")).unwrap();
    let document = |until| Qualification {
        id: QualificationId("loan.licence".into()),
        name: "金融许可证".into(),
        validity: Validity { from: Some(1), until },
    };
    for until in [Some(9), None] {
        store.file(&document(until), "anna", 1).unwrap();
        let expected: Register = [document(until)].into_iter().collect();
        assert_eq!(store.register().unwrap(), expected);
    }
    assert_eq!(store.verify_audit().unwrap(), AuditState::Intact { rows: 2 });
}
