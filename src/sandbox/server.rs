//! HTTP around the world: reading requests, holding them, applying faults, recording, answering.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, DefaultBodyLimit, FromRequest, Multipart, Query, Request, State};
use axum::response::Response;
use axum::{Extension, Router};
use futures_util::{StreamExt, stream};
use http::HeaderMap;
use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Shared;
use super::artifacts::{FILE_LIMIT, StoredArtifact};
use super::faults::FaultKind;
use super::line::{Cutter, Listening};
use super::route::Route;
use super::world::{self, Answer};
use crate::gitlab::wire::{JobRequest, header};
use crate::ids::JobId;
use crate::time;

/// Larger than any request but artifacts: GitLab takes 1 MiB of trace at once.
const BODY_LIMIT: usize = 8 << 20;

/// Between the last bytes of an answer that breaks off and the cut.
const FLUSH_TIME: Duration = Duration::from_millis(20);

/// Serves until stopped.
pub(super) async fn run(listening: Listening, shared: Arc<Shared>, stop: CancellationToken) {
    let service = Router::new()
        .fallback(serve)
        .layer(DefaultBodyLimit::disable())
        .with_state(shared)
        .into_make_service_with_connect_info::<Cutter>();
    tokio::select! {
        ended = axum::serve(listening, service) => {
            if let Err(error) = ended {
                warn!(%error, "sandbox server ended");
            }
        }
        () = stop.cancelled() => {}
    }
}

/// One request, recorded, with what goes wrong.
async fn serve(
    State(shared): State<Arc<Shared>>,
    Extension(ConnectInfo(cutter)): Extension<ConnectInfo<Cutter>>,
    request: Request,
) -> Response {
    let route = Route::of(request.method().as_str(), request.uri().path());
    let (head, body) = request.into_parts();
    // Artifacts are streamed; all else is small.
    let (body, read) = if matches!(route, Route::UploadArtifacts(_)) {
        (body, Bytes::new())
    } else {
        let Ok(read) = axum::body::to_bytes(body, BODY_LIMIT).await else { return respond(Answer::bare(413)) };
        (Body::empty(), read)
    };
    let number = shared.log().begin(passed(&shared), &head, route, &read);
    let call = Call { shared: &shared, route, head, body, read };
    let response = call.answer(&cutter).await;
    let status = response.as_ref().map(|response| response.status().as_u16());
    shared.log().end(number, passed(&shared), status);
    response.unwrap_or_else(|| {
        cutter.cut();
        // Never seen: the connection is gone.
        respond(Answer::bare(500))
    })
}

fn passed(shared: &Shared) -> Duration {
    time::now().instant.saturating_duration_since(shared.started.instant)
}

struct Call<'a> {
    shared: &'a Shared,
    route: Route,
    head: http::request::Parts,
    body: Body,
    read: Bytes,
}

impl Call<'_> {
    /// None where the connection is to be lost instead.
    async fn answer(self, cutter: &Cutter) -> Option<Response> {
        match self.shared.faults.hit(self.route, time::now().instant) {
            None => Some(self.act().await),
            Some(FaultKind::Answer { status, headers, body }) => Some(scripted(status, &headers, body)),
            Some(FaultKind::LostBefore) => None,
            Some(FaultKind::LostAfter) => {
                self.act().await;
                None
            }
            Some(FaultKind::BreaksOff { after }) => {
                let response = self.act().await;
                Some(breaking_off(response, after, cutter.clone()).await)
            }
            Some(FaultKind::Late { by }) => {
                tokio::time::sleep(by).await;
                Some(self.act().await)
            }
            Some(FaultKind::SlowBytes { piece, every }) => Some(slowly(self.act().await, piece, every).await),
            Some(FaultKind::Stalls { status: Some(status) }) => Some(stalling(scripted(status, &[], String::new()))),
            Some(FaultKind::Stalls { status: None }) => Some(stalling(self.act().await)),
        }
    }

    async fn act(self) -> Response {
        let shared = self.shared;
        match self.route {
            Route::RequestJob => self.request_job().await,
            Route::UpdateJob(id) => self.with_json(|request| {
                shared.world(|world, now| world.update(id, text(&self.head.headers, header::JOB_TOKEN), &request, now))
            }),
            Route::PatchTrace(id) => respond(shared.world(|world, now| {
                let headers = &self.head.headers;
                let (token, range) = (text(headers, header::JOB_TOKEN), text(headers, "content-range"));
                world.patch(id, token, range, &self.read, now)
            })),
            Route::UploadArtifacts(id) => self.upload(id).await.unwrap_or_else(respond),
            Route::DownloadArtifacts(id) => self.download(id).await,
            Route::Storage(id) => match shared.read(|world| world.stored_archive(id)) {
                Some(file) => send_file(&file).await,
                None => respond(Answer::bare(404)),
            },
            Route::Register => self.with_json(|request| shared.world(|world, _| world.register(&request))),
            Route::Verify => self.with_json(|request| shared.world(|world, _| world.verify(&request))),
            Route::Unregister => self.with_json(|request| shared.world(|world, _| world.unregister(&request))),
            Route::UnregisterManager => {
                self.with_json(|request| shared.world(|world, _| world.unregister_manager(&request)))
            }
            Route::ResetToken => self.with_json(|request| shared.world(|world, _| world.reset_token(&request))),
            Route::ResetTokenOf(id) => {
                let token = text(&self.head.headers, header::PRIVATE_TOKEN);
                respond(shared.world(|world, _| world.reset_token_of(id, token)))
            }
            Route::Discovery => respond(Answer::error(501, "501 Not Implemented")),
            Route::Unknown => respond(Answer::error(404, "404 Not Found")),
        }
    }

    fn with_json<T: DeserializeOwned>(&self, act: impl FnOnce(T) -> Answer) -> Response {
        respond(match serde_json::from_slice(&self.read) {
            Ok(request) => act(request),
            Err(error) => Answer::error(400, &error.to_string()),
        })
    }

    /// Held while there is no news, as the server in front of GitLab does it: news end the hold with a
    /// 204, and the next request brings the job.
    async fn request_job(self) -> Response {
        let request: JobRequest = match serde_json::from_slice(&self.read) {
            Ok(request) => request,
            Err(error) => return respond(Answer::error(400, &error.to_string())),
        };
        let _open = Open::new(self.shared);
        let mut queue = self.shared.queue.subscribe();
        let (asked, hold) = self.shared.world(|world, now| (world.request(&request, true, now), world.options().hold));
        let version = match asked {
            world::Request::Answered(answer) => return respond(answer),
            world::Request::Held { version } => version,
        };
        let news = queue.wait_for(|now| *now != version);
        // The end of the hold is what it is, with or without news.
        tokio::time::timeout(hold, news).await.ok();
        let answer = Answer { headers: vec![("gitlab-ci-builds-polling", "yes".to_owned())], ..Answer::bare(204) };
        respond(answer)
    }

    async fn upload(self, id: JobId) -> Result<Response, Answer> {
        let token = text(&self.head.headers, header::JOB_TOKEN).map(str::to_owned);
        self.shared.world(|world, _| world.may_upload(id, token.as_deref()))?;
        let query = Query::<Vec<(String, String)>>::try_from_uri(&self.head.uri);
        let query = query.map_err(|error| Answer::error(400, &error.to_string()))?.0;
        let bad = |error: &dyn std::fmt::Display| Answer::error(400, &error.to_string());
        let request = Request::from_parts(self.head, self.body);
        let mut form = Multipart::from_request(request, &()).await.map_err(|error| bad(&error))?;
        while let Some(mut field) = form.next_field().await.map_err(|error| bad(&error))? {
            if field.name() != Some("file") {
                continue;
            }
            let filename = field.file_name().unwrap_or_default().to_owned();
            let (mut file, path) =
                self.shared.storage.create().map_err(|error| Answer::error(500, &error.to_string()))?;
            let mut size = 0;
            while let Some(chunk) = field.chunk().await.map_err(|error| bad(&error))? {
                size += chunk.len() as u64;
                if size > FILE_LIMIT {
                    return Err(Answer::error(413, "413 Request Entity Too Large"));
                }
                file.write_all(&chunk).await.map_err(|error| Answer::error(500, &error.to_string()))?;
            }
            file.flush().await.map_err(|error| Answer::error(500, &error.to_string()))?;
            let stored = StoredArtifact::new(path, filename, size, &query);
            return Ok(respond(self.shared.world(|world, _| world.keep_artifact(id, stored))));
        }
        Err(Answer::error(400, "400 Bad Request - Missing artifacts file"))
    }

    async fn download(self, id: JobId) -> Response {
        let token = text(&self.head.headers, header::JOB_TOKEN);
        let file = match self.shared.read(|world| world.archive(id, token)) {
            Ok(file) => file,
            Err(answer) => return respond(answer),
        };
        let direct = self.head.uri.query().is_some_and(|query| query.contains("direct_download=true"));
        if direct && self.shared.read(|world| world.options().direct_download) {
            let port =
                text(&self.head.headers, "host").and_then(|host| host.rsplit_once(':')).map_or("80", |(_, port)| port);
            let target = format!("http://localhost:{port}/storage/{id}");
            return respond(Answer { headers: vec![("location", target)], ..Answer::bare(302) });
        }
        send_file(&file).await
    }
}

/// Counts a job request for as long as it is being answered, also when its connection goes.
struct Open<'a>(&'a Shared);

impl<'a> Open<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.world(|world, _| world.request_opened());
        Self(shared)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        super::lock(&self.0.world).request_closed();
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn respond(answer: Answer) -> Response {
    let mut response = Response::builder().status(answer.status);
    if !answer.body.is_empty() {
        response = response.header("content-type", "application/json");
    }
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    built(response.body(answer.body.into()))
}

/// An answer as a test wrote it.
fn scripted(status: u16, headers: &[(String, String)], body: String) -> Response {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    built(response.body(body.into()))
}

/// A test that scripts an impossible header sees it as an error of the server.
fn built(response: http::Result<Response>) -> Response {
    response.unwrap_or_else(|error| {
        let mut response = Response::new(error.to_string().into());
        *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}

async fn send_file(file: &StoredArtifact) -> Response {
    match tokio::fs::File::open(file.path()).await {
        Ok(open) => {
            let response = Response::builder()
                .header("content-type", "application/octet-stream")
                .header("content-length", file.size)
                .body(Body::from_stream(ReaderStream::new(open)));
            built(response)
        }
        Err(error) => respond(Answer::error(500, &error.to_string())),
    }
}

/// The head and so many bytes, then the connection is cut.
async fn breaking_off(response: Response, after: usize, cutter: Cutter) -> Response {
    let (head, body) = response.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let length = body.len();
    let first = body.slice(..after.min(length));
    let end = stream::once(async move {
        // What was written goes out while this waits.
        tokio::time::sleep(FLUSH_TIME).await;
        cutter.cut();
        Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
    });
    let mut response = Response::from_parts(head, Body::from_stream(stream::iter([Ok(first)]).chain(end)));
    response.headers_mut().insert("content-length", length.into());
    response
}

/// The head of an answer, and the first byte of a body that never comes.
fn stalling(response: Response) -> Response {
    let begun = stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(b"{")) });
    Response::from_parts(response.into_parts().0, Body::from_stream(begun.chain(stream::pending())))
}

async fn slowly(response: Response, piece: usize, every: Duration) -> Response {
    let (head, body) = response.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let length = body.len();
    let pieces = stream::unfold(body, move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::time::sleep(every).await;
        let next = rest.split_to(piece.max(1).min(rest.len()));
        Some((Ok::<_, std::io::Error>(next), rest))
    });
    let mut response = Response::from_parts(head, Body::from_stream(pieces));
    response.headers_mut().insert("content-length", length.into());
    response
}
