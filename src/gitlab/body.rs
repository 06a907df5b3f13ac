//! Reading the bodies of answers, with a limit of bytes and of time: a server must not hold up who asked it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::Response;

#[cfg(feature = "manager")]
use super::error::CallError;

/// Between two pieces of a body.
#[cfg(feature = "manager")]
const PIECE_WITHIN: Duration = Duration::from_secs(30);
/// The whole of an answer in JSON. The largest known payloads are a few megabytes.
#[cfg(feature = "manager")]
const BODY_WITHIN: Duration = Duration::from_secs(120);
/// The body of an answer whose status says it all. It mostly arrives with the head; nothing waits for more of it.
const REST_WITHIN: Duration = Duration::from_secs(1);

/// Reads a body in JSON up to a limit of bytes and of time; what was read stays of use where it breaks off.
#[cfg(feature = "manager")]
pub(super) async fn read_body(mut response: Response, limit: usize) -> (Bytes, Option<CallError>) {
    let mut body = BytesMut::new();
    let whole = tokio::time::sleep(BODY_WITHIN);
    let mut whole = std::pin::pin!(whole);
    let broken_off = loop {
        let piece = tokio::select! {
            piece = tokio::time::timeout(PIECE_WITHIN, response.chunk()) => piece,
            () = &mut whole => break CallError::Timeout { limit: BODY_WITHIN },
        };
        match piece {
            Ok(Ok(Some(piece))) if body.len() + piece.len() > limit => break CallError::TooLarge { limit },
            Ok(Ok(Some(piece))) => body.extend_from_slice(&piece),
            Ok(Ok(None)) => return (body.freeze(), None),
            Ok(Err(error)) => break CallError::Body { source: error.without_url() },
            Err(_) => break CallError::Timeout { limit: PIECE_WITHIN },
        }
    };
    (body.freeze(), Some(broken_off))
}

/// Reads as much of a body as has arrived, up to `limit` bytes: the answer counts by its status, and a server must not
/// hold up whoever asked with the rest. A connection whose body is not read to its end serves no further request.
pub(super) async fn read_arrived(mut response: Response, limit: usize) -> Bytes {
    let mut body = BytesMut::new();
    let reading = async {
        while let Ok(Some(piece)) = response.chunk().await {
            let room = limit - body.len();
            body.extend_from_slice(piece.get(..room).unwrap_or(&piece));
            if body.len() == limit {
                break;
            }
        }
    };
    // What arrived in time is what there is.
    tokio::time::timeout(REST_WITHIN, reading).await.unwrap_or_default();
    body.freeze()
}

#[cfg(test)]
#[cfg(feature = "manager")]
mod tests {
    use futures_util::{StreamExt as _, stream};

    use super::*;
    use crate::time;

    fn response(pieces: impl futures_util::Stream<Item = std::io::Result<Bytes>> + Send + 'static) -> Response {
        http::Response::new(reqwest::Body::wrap_stream(pieces)).into()
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_and_dripping_bodies_are_given_up() {
        let stalled = || response(stream::once(async { Ok(Bytes::from_static(b"{\"a\"")) }).chain(stream::pending()));
        let (body, error) = read_body(stalled(), 1024).await;
        assert!(matches!(error, Some(CallError::Timeout { limit: PIECE_WITHIN })), "{error:?}");
        assert_eq!(body, "{\"a\"");
        let drips = stream::repeat(()).then(|()| async {
            tokio::time::sleep(PIECE_WITHIN / 2).await;
            Ok(Bytes::from_static(b" "))
        });
        let (_, error) = read_body(response(drips), 1024).await;
        assert!(matches!(error, Some(CallError::Timeout { limit: BODY_WITHIN })), "{error:?}");
        let began = time::now().instant;
        assert_eq!(read_arrived(stalled(), 1024).await, "{\"a\"");
        assert_eq!(time::now().instant - began, REST_WITHIN);
    }

    #[tokio::test]
    async fn no_more_of_a_body_is_kept_than_its_limit() {
        let endless = || response(stream::repeat(()).map(|()| Ok(Bytes::from_static(b"0123456789"))));
        let (body, error) = read_body(endless(), 95).await;
        assert!(matches!(error, Some(CallError::TooLarge { limit: 95 })) && body.len() == 90, "{error:?}");
        assert_eq!(read_arrived(endless(), 95).await.len(), 95);
    }
}
