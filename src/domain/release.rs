//! How marketing text is let out: one person answers for the law, another for the brand, and both
//! have read that very version.

use crate::base::spelling;
use crate::domain::knowledge::words;

words!(
    /// What a person answers for.
    Role { Legal = "legal", Brand = "brand" }
);
words!(
    Voice { Approve = "approve", Reject = "reject" }
);

/// What one person says about a version that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    pub role: Role,
    pub voice: Voice,
    pub person: String,
    pub reason: String,
}

/// One role's approval of a version that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consent {
    pub role: Role,
    pub person: String,
    pub reason: String,
}

/// What becomes of a version by a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It still needs this role.
    Waits(Role),
    Released,
    Rejected,
}

/// A vote that does not count; nothing changes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("a release needs the name of the person: --by NAME")]
    Nameless,
    #[error("who rejects says why: --reason TEXT")]
    WithoutReason,
    #[error("{person} has already approved this version for {role}")]
    Spoken { role: Role, person: String },
    #[error("{person} has approved this version for {role}: the other role needs another person")]
    SamePerson { role: Role, person: String },
}

/// What `vote` does to a version that has `given`. Anybody may reject, also who approved before.
pub fn step(given: &[Consent], vote: &Vote) -> Result<Step, Refused> {
    if spelling::plain(&vote.person).trim().is_empty() {
        return Err(Refused::Nameless);
    }
    match vote.voice {
        Voice::Reject if vote.reason.trim().is_empty() => return Err(Refused::WithoutReason),
        Voice::Reject => return Ok(Step::Rejected),
        Voice::Approve => {}
    }
    for Consent { role, person, .. } in given {
        let (role, person) = (*role, person.clone());
        if role == vote.role {
            return Err(Refused::Spoken { role, person });
        }
        if same_person(&person, &vote.person) {
            return Err(Refused::SamePerson { role, person });
        }
    }
    let open = |role: &Role| *role != vote.role && given.iter().all(|c| c.role != *role);
    Ok(Role::ALL.iter().copied().find(open).map_or(Step::Released, Step::Waits))
}

/// Names as people type them: case, width, blanks and what nobody sees make nobody another person.
fn same_person(a: &str, b: &str) -> bool {
    let plain = |name: &str| spelling::plain(name).split_whitespace().collect::<String>();
    plain(a) == plain(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(role: Role, voice: Voice, person: &str) -> Vote {
        Vote { role, voice, person: person.into(), reason: String::new() }
    }

    fn given(role: Role, person: &str) -> Consent {
        Consent { role, person: person.into(), reason: String::new() }
    }

    #[test]
    fn it_takes_two_roles_and_two_people() {
        let (legal, brand) = (Role::Legal, Role::Brand);
        let approve = |role, person| vote(role, Voice::Approve, person);
        assert_eq!(step(&[], &approve(legal, "Li")), Ok(Step::Waits(brand)));
        assert_eq!(step(&[], &approve(brand, "Li")), Ok(Step::Waits(legal)));
        let li = [given(legal, "Li Na")];
        assert_eq!(step(&li, &approve(brand, "Wang")), Ok(Step::Released));
        assert!(matches!(step(&li, &approve(legal, "Wang")), Err(Refused::Spoken { .. })));
        for name in ["Li Na", "li na ", " LINA", "Ｌｉ Ｎａ", "Li\u{200b}Na", "L\u{ad}i\u{3000}Na"]
        {
            let refused = step(&li, &approve(brand, name));
            assert!(matches!(refused, Err(Refused::SamePerson { .. })), "{name}");
        }
        for nobody in [" ", "\u{200b}"] {
            assert_eq!(step(&[], &approve(legal, nobody)), Err(Refused::Nameless));
        }
    }

    #[test]
    fn who_rejects_says_why() {
        let mut no = vote(Role::Brand, Voice::Reject, "Wang");
        assert_eq!(step(&[], &no), Err(Refused::WithoutReason));
        no.reason = "价格已过期".into();
        assert_eq!(step(&[given(Role::Brand, "Wang")], &no), Ok(Step::Rejected));
    }
}
