//! What was sent, what the service took on, what customers saw, and what broke the protocol.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::clock::Stopwatch;

/// Faults beyond these are counted only.
const FAULTS_KEPT: usize = 20;

/// Written by all who take part in a run; milliseconds count from its beginning.
pub struct Ledger {
    watch: Stopwatch,
    book: Mutex<Book>,
}

#[derive(Clone, Debug, Default)]
pub struct Book {
    /// In the order in which they were first sent.
    pub lines: Vec<Line>,
    /// What each customer saw, in the order in which it came.
    pub sights: HashMap<String, Vec<Sight>>,
    /// The first of them, in words.
    pub faults: Vec<String>,
    pub fault_count: usize,
    /// Calls of the API that send something, and how many of them were made to fail.
    pub sends: usize,
    pub sends_failed: usize,
}

/// One message of a customer.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub customer: String,
    pub id: u64,
    pub sent_ms: f64,
    pub tries: u32,
    /// `None`: the service never took it on.
    pub accepted: Option<Taken>,
}

/// The try that was answered with 200.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Taken {
    pub begun_ms: f64,
    pub answered_ms: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Sight {
    pub at_ms: f64,
    pub text: String,
}

/// Where a message stands in the book.
#[derive(Clone, Copy, Debug)]
pub struct LineNumber(usize);

impl Default for Ledger {
    fn default() -> Self {
        Self { watch: Stopwatch::start(), book: Mutex::default() }
    }
}

impl Ledger {
    /// Milliseconds since the run began.
    pub fn now_ms(&self) -> f64 {
        self.watch.ms()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn sent(&self, customer: &str, id: u64) -> LineNumber {
        let sent_ms = self.now_ms();
        let mut book = self.book();
        let customer = customer.to_owned();
        book.lines.push(Line { customer, id, sent_ms, tries: 0, accepted: None });
        LineNumber(book.lines.len() - 1)
    }

    pub fn tried(&self, line: LineNumber) {
        self.book().lines[line.0].tries += 1;
    }

    pub fn accepted(&self, line: LineNumber, taken: Taken) {
        self.book().lines[line.0].accepted = Some(taken);
    }

    pub fn seen(&self, customer: &str, text: &str) {
        let sight = Sight { at_ms: self.now_ms(), text: text.to_owned() };
        self.book().sights.entry(customer.to_owned()).or_default().push(sight);
    }

    pub fn send(&self, failed: bool) {
        let mut book = self.book();
        book.sends += 1;
        book.sends_failed += usize::from(failed);
    }

    pub fn fault(&self, text: impl Into<String>) {
        let mut book = self.book();
        book.fault_count += 1;
        if book.faults.len() < FAULTS_KEPT {
            book.faults.push(text.into());
        }
    }

    /// What a customer saw after the first `known` of it.
    pub fn seen_after(&self, customer: &str, known: usize) -> Vec<String> {
        let book = self.book();
        let sights = book.sights.get(customer).map(Vec::as_slice).unwrap_or_default();
        sights.iter().skip(known).map(|sight| sight.text.clone()).collect()
    }

    pub fn snapshot(&self) -> Book {
        self.book().clone()
    }
}
