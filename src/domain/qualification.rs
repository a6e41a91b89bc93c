//! Documents that entitle a company to answer in a field (licences, registrations), with their dates.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::clock::UnixMs;
use crate::domain::knowledge::{Domain, Validity, words};

/// Stable name of a qualification document, chosen by the operator (`loan.licence`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct QualificationId(pub String);

impl QualificationId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for QualificationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qualification {
    pub id: QualificationId,
    /// What it is, in words.
    pub name: String,
    pub validity: Validity,
}

words!(
    /// Whether a document holds at a moment.
    Standing { Valid = "valid", NotYet = "not_yet", Expired = "expired" }
);

impl Qualification {
    pub fn standing(&self, at: UnixMs) -> Standing {
        match self.validity {
            Validity { from: Some(from), .. } if at < from => Standing::NotYet,
            Validity { until: Some(until), .. } if until <= at => Standing::Expired,
            Validity { .. } => Standing::Valid,
        }
    }
}

/// Why an entry may not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Its field demands a document, and it cites none.
    Uncited,
    /// Nobody has filed what it cites.
    Unknown(QualificationId),
    NotYet(QualificationId),
    Expired(QualificationId),
    /// What is filed cannot be read now.
    Unreadable,
}

impl Lack {
    /// Id of the rule that fired.
    pub fn rule(&self) -> String {
        match self {
            Self::Uncited => "qualification.uncited".to_owned(),
            Self::Unknown(id) => format!("qualification.unknown.{id}"),
            Self::NotYet(id) => format!("qualification.not_yet.{id}"),
            Self::Expired(id) => format!("qualification.expired.{id}"),
            Self::Unreadable => "qualification.unreadable".to_owned(),
        }
    }
}

/// All documents on file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Register {
    filed: BTreeMap<QualificationId, Qualification>,
}

impl FromIterator<Qualification> for Register {
    fn from_iter<I: IntoIterator<Item = Qualification>>(documents: I) -> Self {
        Self { filed: documents.into_iter().map(|d| (d.id.clone(), d)).collect() }
    }
}

impl Register {
    pub fn documents(&self) -> impl Iterator<Item = &Qualification> {
        self.filed.values()
    }

    /// The first thing that keeps an entry of this field with these citations from answering. Every
    /// document that is cited must hold, and finance and medicine must cite one.
    pub fn lack(
        &self,
        domain: Domain,
        cited: &BTreeSet<QualificationId>,
        at: UnixMs,
    ) -> Option<Lack> {
        if domain.is_regulated() && cited.is_empty() {
            return Some(Lack::Uncited);
        }
        cited.iter().find_map(|id| match self.filed.get(id).map(|d| d.standing(at)) {
            Some(Standing::Valid) => None,
            Some(Standing::NotYet) => Some(Lack::NotYet(id.clone())),
            Some(Standing::Expired) => Some(Lack::Expired(id.clone())),
            None => Some(Lack::Unknown(id.clone())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> QualificationId {
        QualificationId(text.into())
    }

    #[test]
    fn every_cited_document_must_hold_at_that_moment() {
        let filed = |name: &str, from, until| Qualification {
            id: id(name),
            name: name.into(),
            validity: Validity { from, until },
        };
        let register: Register =
            [filed("a", Some(10), Some(20)), filed("b", None, None)].into_iter().collect();
        let lack = |domain, cited: &[&str], at| {
            register.lack(domain, &cited.iter().map(|c| id(c)).collect(), at)
        };
        for domain in [Domain::Finance, Domain::Medical] {
            assert_eq!(lack(domain, &[], 15), Some(Lack::Uncited));
        }
        assert_eq!(lack(Domain::General, &[], 15), None);
        for domain in Domain::ALL {
            assert_eq!(lack(*domain, &["a", "b"], 10), None);
            assert_eq!(lack(*domain, &["a"], 9), Some(Lack::NotYet(id("a"))));
            assert_eq!(lack(*domain, &["a", "b"], 20), Some(Lack::Expired(id("a"))));
            assert_eq!(lack(*domain, &["b", "c"], 15), Some(Lack::Unknown(id("c"))));
        }
    }
}
