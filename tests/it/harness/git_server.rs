//! A real git server over HTTP: git's own `http-backend` behind a small server.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::namespace::{self, HOST};
use super::run;

/// A push or a pack of a test is far smaller.
const BODY_LIMIT: usize = 16 << 20;

/// A server with one project, `group/project.git`, whose branch `main` has commits.
#[derive(Debug)]
pub(crate) struct GitServer {
    address: SocketAddr,
    root: Arc<tempfile::TempDir>,
    // Owns the server's task, which ends with it.
    _server: JoinSet<()>,
}

#[derive(Clone, Debug)]
struct Backend {
    root: Arc<tempfile::TempDir>,
    /// What `Authorization` has to say.
    credentials: Option<String>,
}

impl GitServer {
    /// A server whose project has one commit with `README.md`.
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// A server that lets in who comes as `gitlab-ci-token` with this password.
    pub(crate) async fn start_private(password: &str) -> Self {
        Self::start_with(Some(password)).await
    }

    async fn start_with(password: Option<&str>) -> Self {
        namespace::make_network();
        let root = Arc::new(tempfile::Builder::new().prefix("flotilla-git-").tempdir().expect("a folder"));
        let listener = TcpListener::bind((HOST, 0)).await.expect("an address");
        let address = listener.local_addr().expect("an address");
        let credentials = password.map(|password| {
            let text = format!("gitlab-ci-token:{password}");
            format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(text))
        });
        let backend = Backend { root: Arc::clone(&root), credentials };
        let router = Router::new().fallback(serve).with_state(backend);
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.expect("the server ends with the test") });
        let server = Self { address, root, _server: server };
        server.make_project("project");
        server.commit("README.md", "the first line\n");
        server
    }

    /// The project's address.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/group/project.git", self.address)
    }

    /// Makes one more project, without commits.
    pub(crate) fn make_project(&self, name: &str) {
        let bare = self.root.path().join(format!("group/{name}.git"));
        run("git", &["init", "--quiet", "--bare", "--initial-branch=main", &text(&bare)]);
        let work = self.root.path().join("work").join(name);
        fs::create_dir_all(&work).expect("a folder");
        run("git", &["init", "--quiet", "--initial-branch=main", &text(&work)]);
        self.git(name, &["remote", "add", "origin", &text(&bare)]);
    }

    /// Commits one file to the project's `main`; the commit's id.
    pub(crate) fn commit(&self, file: &str, content: &str) -> String {
        self.commit_to("project", file, content)
    }

    pub(crate) fn commit_to(&self, project: &str, file: &str, content: &str) -> String {
        let work = self.root.path().join("work").join(project);
        fs::write(work.join(file), content).expect("a file of the project");
        self.git(project, &["add", "--all"]);
        self.git(project, &["commit", "--quiet", "--message", &format!("change {file}")]);
        self.git(project, &["push", "--quiet", "origin", "main"]);
        self.git(project, &["rev-parse", "HEAD"]).trim().to_owned()
    }

    /// The project's last commit.
    pub(crate) fn head(&self) -> String {
        self.git("project", &["rev-parse", "HEAD"]).trim().to_owned()
    }

    /// Runs git in the project's work tree.
    pub(crate) fn git(&self, project: &str, arguments: &[&str]) -> String {
        let work = text(&self.root.path().join("work").join(project));
        let own = [
            "-C",
            &work,
            "-c",
            "user.name=test",
            "-c",
            "user.email=test@example.com",
            "-c",
            "protocol.file.allow=always",
        ];
        run("git", &[&own, arguments].concat())
    }
}

/// One request, as CGI has it.
async fn serve(State(backend): State<Backend>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, BODY_LIMIT).await.expect("a small body");
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if backend.credentials.as_deref().is_some_and(|wanted| wanted != header("authorization")) {
        let refusal = Response::builder().status(401).header("www-authenticate", "Basic realm=\"GitLab\"");
        return refusal.body(Body::empty()).expect("a response");
    }
    let mut child = tokio::process::Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", backend.root.path())
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", head.uri.path())
        .env("QUERY_STRING", head.uri.query().unwrap_or_default())
        .env("REQUEST_METHOD", head.method.as_str())
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("git");
    let mut input = child.stdin.take().expect("piped");
    let mut writing = JoinSet::new();
    // It answers some requests without reading them.
    writing.spawn(async move { input.write_all(&body).await.ok() });
    let output = child.wait_with_output().await.expect("git http-backend").stdout;
    cgi_response(&output)
}

/// Header lines, an empty one, the body.
fn cgi_response(output: &[u8]) -> Response {
    let end = output.windows(4).position(|part| part == b"\r\n\r\n").expect("CGI's header");
    let (head, body) = output.split_at(end + 4);
    let mut response = Response::builder();
    for line in super::text(head).lines().filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").expect("a header");
        response = match name {
            "Status" => response.status(value.split(' ').next().unwrap_or(value)),
            _ => response.header(name, value),
        };
    }
    response.body(Body::from(body.to_vec())).expect("a response")
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
