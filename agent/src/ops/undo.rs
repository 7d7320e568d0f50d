//! Rollback: a stack of named undo steps that a verb pushes as it makes things. When the verb fails they run last to
//! first, whatever the client does meanwhile, and none stops the others.

use std::pin::Pin;

use super::Error;

type UndoFuture = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;
type UndoStep = Box<dyn FnOnce() -> UndoFuture + Send>;

/// The steps so far. Dropped unrun when the verb succeeds.
#[derive(Default)]
pub(super) struct Undo {
    steps: Vec<Step>,
}

struct Step {
    name: &'static str,
    /// Takes back the intent's record, by which the next start finds what is left.
    record: bool,
    run: UndoStep,
}

impl Undo {
    /// Adds what takes back the thing that was just made, or is about to be.
    pub(super) fn push<F, Fut>(&mut self, name: &'static str, step: F)
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        self.steps.push(Step { name, record: false, run: Box::new(move || Box::pin(step())) });
    }

    /// Adds what takes back the record of all that is made after it. It stays when something of that does, so that the
    /// next start can take it up.
    pub(super) fn push_record<F, Fut>(&mut self, name: &'static str, step: F)
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        self.steps.push(Step { name, record: true, run: Box::new(move || Box::pin(step())) });
    }

    /// Runs every step, last first, and returns the error that made it necessary. A step that fails is told in the
    /// log with its name: the caller's error is the cause, not the clean-up, and the next start sweeps what is left.
    pub(super) async fn after(mut self, error: Error) -> Error {
        let mut failed = false;
        while let Some(Step { name, record, run }) = self.steps.pop() {
            if record && failed {
                continue;
            }
            if let Err(failure) = run().await {
                failed = true;
                tracing::error!(step = name, error = %super::chain(&failure), "an undo step failed; it is swept at the next start");
            }
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test]
    async fn steps_run_last_first_and_a_failing_one_stops_none() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut undo = Undo::default();
        for n in 0..3 {
            let order = order.clone();
            undo.push("step", move || async move {
                order.lock().unwrap().push(n);
                if n == 1 { Err(Error::NoSuchPod("x".into())) } else { Ok(()) }
            });
        }
        let error = undo.after(Error::NoSuchPod("cause".into())).await;
        assert!(error.to_string().contains("cause"));
        assert_eq!(*order.lock().unwrap(), [2, 1, 0]);
    }

    #[tokio::test]
    async fn the_record_stays_when_something_of_it_does() {
        for fails in [false, true] {
            let order = Arc::new(Mutex::new(Vec::new()));
            let mut undo = Undo::default();
            let removed = order.clone();
            undo.push_record("record", move || async move {
                removed.lock().unwrap().push("record");
                Ok(())
            });
            undo.push("thing", move || async move { if fails { Err(Error::Cancelled) } else { Ok(()) } });
            undo.after(Error::Cancelled).await;
            assert_eq!(order.lock().unwrap().is_empty(), fails);
        }
    }
}
