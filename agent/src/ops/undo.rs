//! Rollback: a stack of named undo steps that a verb pushes as it makes things. When the verb fails they run last to
//! first, whatever the client does meanwhile, and none stops the others.

use std::pin::Pin;

use super::Error;

type UndoFuture = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;
type UndoStep = Box<dyn FnOnce() -> UndoFuture + Send>;

/// The steps so far. Dropped unrun when the verb succeeds.
#[derive(Default)]
pub(super) struct Undo {
    steps: Vec<(&'static str, UndoStep)>,
}

impl Undo {
    /// Adds what takes back the thing that was just made, or is about to be.
    pub(super) fn push<F, Fut>(&mut self, name: &'static str, step: F)
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        self.steps.push((name, Box::new(move || Box::pin(step()))));
    }

    /// Runs every step, last first, and returns the error that made it necessary. A step that fails is told in the
    /// log with its name: the caller's error is the cause, not the clean-up, and the next start sweeps what is left.
    pub(super) async fn after(mut self, error: Error) -> Error {
        while let Some((name, step)) = self.steps.pop() {
            if let Err(failure) = step().await {
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
}
