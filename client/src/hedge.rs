//! A second question for a read that is late.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout;

/// Whose outcome counts.
pub(crate) enum Raced<A, E, H> {
    /// The first question's, good or bad.
    First(Result<A, E>),
    /// The second one's, which is good; and how the first one failed, if it did.
    Second(H, Option<E>),
}

/// Waits for `first`; after `patience`, if `allowed`, for `second` as well. A second one that fails (`None`) changes nothing; a first
/// one that fails then leaves it to the second. The one that is not needed is dropped.
pub(crate) async fn race<A, E, H>(
    first: impl Future<Output = Result<A, E>>,
    patience: Option<Duration>,
    allowed: impl FnOnce() -> bool,
    second: impl Future<Output = Option<H>>,
) -> Raced<A, E, H> {
    let mut first = pin!(first);
    let Some(patience) = patience else { return Raced::First(first.await) };
    if let Ok(outcome) = timeout(patience, &mut first).await {
        return Raced::First(outcome);
    }
    if !allowed() {
        return Raced::First(first.await);
    }
    let mut second = pin!(second);
    let failed = tokio::select! {
        biased;
        outcome = &mut first => match outcome {
            Ok(outcome) => return Raced::First(Ok(outcome)),
            Err(failed) => failed,
        },
        asked = &mut second => match asked {
            Some(outcome) => return Raced::Second(outcome, None),
            None => return Raced::First(first.await),
        },
    };
    match second.await {
        Some(outcome) => Raced::Second(outcome, Some(failed)),
        None => Raced::First(Err(failed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    /// Done when it has been waited for longer than anybody's patience here.
    async fn late(outcome: Result<i32, i32>) -> Result<i32, i32> {
        let _ = timeout(Duration::from_millis(50), pending::<()>()).await;
        outcome
    }

    #[tokio::test]
    async fn the_second_is_asked_when_the_first_is_late_and_allowed() {
        let patience = Some(Duration::from_millis(5));
        let second = || ready(Some("second"));
        let never = pending::<Result<i32, i32>>;
        assert!(matches!(
            race(ready(Ok::<_, i32>(1)), patience, || true, second()).await,
            Raced::First(Ok(1))
        ));
        assert!(matches!(race(never(), patience, || true, second()).await, Raced::Second("second", None)));
        assert!(matches!(race(late(Ok(2)), patience, || false, second()).await, Raced::First(Ok(2))));
        assert!(matches!(race(late(Ok(2)), None, || true, second()).await, Raced::First(Ok(2))));
        let fails = ready(None::<&str>);
        assert!(matches!(race(late(Ok(2)), patience, || true, fails).await, Raced::First(Ok(2))));
    }

    #[tokio::test]
    async fn a_first_that_fails_leaves_it_to_the_second() {
        let patience = Some(Duration::from_millis(5));
        let later = async |good: bool| {
            let _ = timeout(Duration::from_millis(100), pending::<()>()).await;
            good.then_some("second")
        };
        let outcome = race(late(Err(3)), patience, || true, later(true)).await;
        assert!(matches!(outcome, Raced::Second("second", Some(3))));
        assert!(matches!(race(late(Err(3)), patience, || true, later(false)).await, Raced::First(Err(3))));
    }
}
