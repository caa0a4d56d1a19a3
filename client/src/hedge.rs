//! A second question for a read that is late.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout;

use crate::read_times::ReadTimes;

/// Whose outcome counts.
pub(crate) enum Raced<A, E, H> {
    /// The first question's, good or bad.
    First(Result<A, E>),
    /// The second one's, which is good; and how the first one failed, if it did.
    Second(H, Option<E>),
}

/// Waits for `first`; after `patience`, if `times` allow it, for `second` as well. A second one that fails (`None`) changes nothing; a first
/// one that fails then leaves it to the second. The one that is not needed is dropped.
pub(crate) async fn race<A, E, H>(
    first: impl Future<Output = Result<A, E>>,
    patience: Option<Duration>,
    times: &ReadTimes,
    second: impl Future<Output = Option<H>>,
) -> Raced<A, E, H> {
    let mut first = pin!(first);
    let Some(patience) = patience else { return Raced::First(first.await) };
    if let Ok(outcome) = timeout(patience, &mut first).await {
        return Raced::First(outcome);
    }
    if !times.may_hedge() {
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
            Some(outcome) => {
                times.note_won();
                return Raced::Second(outcome, None);
            }
            None => return Raced::First(first.await),
        },
    };
    match second.await {
        Some(outcome) => {
            times.note_won();
            Raced::Second(outcome, Some(failed))
        }
        None => Raced::First(Err(failed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read_times::HedgeCounts;
    use std::future::{pending, ready};

    /// Done when it has been waited for longer than anybody's patience here.
    async fn late(outcome: Result<i32, i32>) -> Result<i32, i32> {
        let _ = timeout(Duration::from_millis(50), pending::<()>()).await;
        outcome
    }

    /// No second questions are left.
    fn spent() -> ReadTimes {
        let times = ReadTimes::default();
        while times.may_hedge() {}
        times
    }

    #[tokio::test]
    async fn the_second_is_asked_when_the_first_is_late_and_allowed() {
        let patience = Some(Duration::from_millis(5));
        let second = || ready(Some("second"));
        let never = pending::<Result<i32, i32>>;
        let times = ReadTimes::default();
        assert!(matches!(
            race(ready(Ok::<_, i32>(1)), patience, &times, second()).await,
            Raced::First(Ok(1))
        ));
        assert!(matches!(race(never(), patience, &times, second()).await, Raced::Second("second", None)));
        assert!(matches!(race(late(Ok(2)), patience, &spent(), second()).await, Raced::First(Ok(2))));
        assert!(matches!(race(late(Ok(2)), None, &times, second()).await, Raced::First(Ok(2))));
        let fails = ready(None::<&str>);
        assert!(matches!(race(late(Ok(2)), patience, &times, fails).await, Raced::First(Ok(2))));
        assert_eq!(times.hedges(), HedgeCounts { asked: 2, won: 1, refused: 0 });
    }

    #[tokio::test]
    async fn a_first_that_fails_leaves_it_to_the_second() {
        let patience = Some(Duration::from_millis(5));
        let later = async |good: bool| {
            let _ = timeout(Duration::from_millis(100), pending::<()>()).await;
            good.then_some("second")
        };
        let outcome = race(late(Err(3)), patience, &ReadTimes::default(), later(true)).await;
        assert!(matches!(outcome, Raced::Second("second", Some(3))));
        assert!(matches!(
            race(late(Err(3)), patience, &ReadTimes::default(), later(false)).await,
            Raced::First(Err(3))
        ));
    }
}
