//! Ctrl-C while a command is under way.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What ended a wait.
pub(super) enum Waited<T> {
    For(T),
    Interrupted,
}

/// Listens all the time: an interrupt between two waits ends the second one.
#[derive(Debug)]
pub(super) struct Interrupts(Option<Signal>);

impl Interrupts {
    /// Takes Ctrl-C from the process, which it would end otherwise.
    pub(super) fn taken() -> io::Result<Self> {
        signal(SignalKind::interrupt()).map(|signal| Self(Some(signal)))
    }

    /// Leaves Ctrl-C to end the process.
    pub(super) fn left() -> Self {
        Self(None)
    }

    /// Forgets an interrupt that came too late for the command it was meant for.
    pub(super) async fn forget(&mut self) {
        let Some(signal) = &mut self.0 else { return };
        tokio::task::yield_now().await;
        tokio::select! {
            biased;
            _ = signal.recv() => {}
            () = std::future::ready(()) => {}
        }
    }

    /// Waits for a value until Ctrl-C.
    pub(super) async fn wait<T>(&mut self, value: impl Future<Output = T>) -> Waited<T> {
        let Some(signal) = &mut self.0 else { return Waited::For(value.await) };
        tokio::select! {
            biased;
            _ = signal.recv() => Waited::Interrupted,
            value = value => Waited::For(value),
        }
    }
}
