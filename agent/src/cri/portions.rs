//! Lists in portions, for the Stream verbs: a node whose list is larger than a client takes as one message is told in
//! several. Each portion is made when the one before has gone out, so that a long list is never whole in memory as messages.

use futures_util::stream::{BoxStream, StreamExt, iter};
use prost::Message;
use tonic::Status;

/// The answers of a Stream verb.
pub(super) type Portions<T> = BoxStream<'static, Result<T, Status>>;

/// A portion ends with the item that reaches this size, in bytes: far below the 16 MiB that clients take, as one item has
/// at most labels and annotations of 256 KiB each.
const ENOUGH: usize = 1 << 20;

/// The items in portions, each wrapped in its message. No item, no message.
pub(super) fn portions<T, R>(
    mut items: impl Iterator<Item = T> + Send + 'static,
    wrap: impl Fn(Vec<T>) -> R + Send + 'static,
) -> Portions<R>
where
    T: Message + 'static,
    R: Send + 'static,
{
    let portion = move || {
        let (mut portion, mut size) = (Vec::new(), 0);
        while size < ENOUGH
            && let Some(item) = items.next()
        {
            size += item.encoded_len();
            portion.push(item);
        }
        (!portion.is_empty()).then(|| Ok(wrap(portion)))
    };
    iter(std::iter::from_fn(portion)).boxed()
}

#[cfg(test)]
mod tests {
    use cri_api::v1::Container;

    use super::*;

    async fn sizes(items: Vec<Container>) -> Vec<usize> {
        portions(items.into_iter(), |portion| portion.len()).map(Result::unwrap).collect().await
    }

    #[tokio::test]
    async fn a_portion_ends_when_it_is_large_enough_and_nothing_is_lost() {
        let container = |size: usize| Container { id: "x".repeat(size), ..Container::default() };
        assert_eq!(sizes(vec![]).await, [0; 0]);
        assert_eq!(sizes(vec![container(10); 3]).await, [3]);
        assert_eq!(sizes(vec![container(ENOUGH / 2); 5]).await, [2, 2, 1]);
        assert_eq!(sizes(vec![container(2 * ENOUGH), container(1)]).await, [1, 1]);
    }
}
