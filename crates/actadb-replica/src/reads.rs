//! Questions for what is committed, asked of the whole group (section 6.4 of Ongaro's thesis).
//!
//! One question is under way at a time; what is asked meanwhile goes with the next. The engine
//! drops a question without a word when there is no leader, or when the leader's term has no commit
//! yet: so it is asked again with every tick until it is answered.

use std::collections::VecDeque;

/// What consensus is to be asked, by number.
pub(crate) type Question = u64;

#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// Not asked yet.
    waiting: Vec<u64>,
    /// The question under way, and for whom it is asked.
    asked: Option<(Question, Vec<u64>)>,
    /// Answered with an index that is not published here yet.
    behind: VecDeque<(u64, Vec<u64>)>,
    last: Question,
}

impl Reads {
    pub(crate) fn add(&mut self, token: u64) {
        self.waiting.push(token);
    }

    /// The question to put to the group now. `again`: also one that was put before.
    pub(crate) fn ask(&mut self, again: bool) -> Option<Question> {
        if let Some((question, _)) = &self.asked {
            return again.then_some(*question);
        }
        if self.waiting.is_empty() {
            return None;
        }
        self.last += 1;
        self.asked = Some((self.last, std::mem::take(&mut self.waiting)));
        Some(self.last)
    }

    /// The group has answered; entries up to `index` were committed.
    pub(crate) fn answered(&mut self, question: Question, index: u64) {
        if let Some((_, tokens)) = self.asked.take_if(|(asked, _)| *asked == question) {
            self.behind.push_back((index, tokens));
        }
    }

    /// Those whose answer is published here.
    pub(crate) fn published(&mut self, applied: u64) -> Vec<u64> {
        let mut ready = Vec::new();
        while self.behind.front().is_some_and(|(index, _)| *index <= applied) {
            ready.extend(self.behind.pop_front().into_iter().flat_map(|(_, tokens)| tokens));
        }
        ready
    }
}
