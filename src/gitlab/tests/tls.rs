//! TLS files: an authority of one's own, a client certificate, and files that change while running.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

use super::{connections, features, settings};
use crate::gitlab::observer::Unobserved;
use crate::gitlab::outcome::RequestOutcome;
use crate::gitlab::proxy::ProxySettings;
use crate::gitlab::tls::TlsFiles;
use crate::gitlab::{Client, Connections, Poll, RunnerSettings};

const CA: &str = include_str!("tls_files/ca.crt");
const OTHER_CA: &str = include_str!("tls_files/other-ca.crt");
const SERVER: [&str; 2] = [include_str!("tls_files/server.crt"), include_str!("tls_files/server.key")];
const CLIENT: [&str; 2] = [include_str!("tls_files/client.crt"), include_str!("tls_files/client.key")];

/// A TLS server that answers each request of so many connections with a job; its end tells how many
/// handshakes succeeded.
struct TlsServer {
    url: String,
    thread: JoinHandle<usize>,
}

impl TlsServer {
    fn start(wants_client: bool, connections: usize) -> Self {
        let certificate = CertificateDer::from_pem_slice(SERVER[0].as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(SERVER[1].as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let builder = if wants_client {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(CA.as_bytes()).unwrap()).unwrap();
            builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap(),
            )
        } else {
            builder.with_no_client_auth()
        };
        let config = Arc::new(builder.with_single_cert(vec![certificate], key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            (0..connections).filter(|_| serve_once(&listener, Arc::clone(&config)).is_ok()).count()
        });
        Self { url, thread }
    }
}

/// One request, answered on a connection that then ends.
fn serve_once(listener: &TcpListener, config: Arc<ServerConfig>) -> std::io::Result<()> {
    let (socket, _) = listener.accept()?;
    let mut stream = StreamOwned::new(ServerConnection::new(config).map_err(std::io::Error::other)?, socket);
    let mut request = Vec::new();
    let mut piece = [0; 4096];
    while !request.ends_with(b"}") {
        match stream.read(&mut piece)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => request.extend_from_slice(&piece[..count]),
        }
    }
    let body = r#"{"id":1,"token":"glcbt-x"}"#;
    write!(stream, "HTTP/1.1 201 Created\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    stream.conn.send_close_notify();
    stream.flush()
}

fn put(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn client(url: &str, tls: TlsFiles) -> Client {
    let runner = RunnerSettings { tls, ..settings(url, "glrt-x", features()) };
    Client::new(&connections(), runner, Arc::new(Unobserved)).unwrap()
}

/// Some clocks of file systems tick coarsely, so the new time is set by hand.
fn replace(path: &Path, text: &str) {
    let before = std::fs::metadata(path).unwrap().modified().unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::File::options().write(true).open(path).unwrap().set_modified(before + Duration::from_secs(5)).unwrap();
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_and_given_to_the_job() {
    let server = TlsServer::start(false, 1);
    let folder = TempDir::new().unwrap();
    let ca = put(&folder, "ca.crt", CA);
    let outcome =
        client(&server.url, TlsFiles { ca: Some(ca), ..TlsFiles::default() }).request_job(Poll::AtOnce).await.outcome;
    let RequestOutcome::Job(job) = outcome else { panic!("{outcome:?}") };
    assert_eq!(job.tls.ca_chain.as_deref(), Some(CA));
    assert_eq!(job.tls.key, None);
    assert_eq!(server.thread.join().unwrap(), 1);
}

#[tokio::test]
async fn a_server_that_nobody_vouches_for_is_not_spoken_to() {
    let server = TlsServer::start(false, 1);
    let outcome = client(&server.url, TlsFiles::default()).request_job(Poll::AtOnce).await.outcome;
    let RequestOutcome::Failed { status: None, message } = outcome else { panic!("{outcome:?}") };
    assert!(message.contains("certificate"), "{message}");
    assert_eq!(server.thread.join().unwrap(), 0);
}

#[tokio::test]
async fn a_file_that_changes_counts_from_the_next_call() {
    let server = TlsServer::start(false, 2);
    let folder = TempDir::new().unwrap();
    let ca = put(&folder, "ca.crt", OTHER_CA);
    let client = client(&server.url, TlsFiles { ca: Some(ca.clone()), ..TlsFiles::default() });
    assert!(matches!(client.request_job(Poll::AtOnce).await.outcome, RequestOutcome::Failed { .. }));
    replace(&ca, CA);
    assert!(matches!(client.request_job(Poll::AtOnce).await.outcome, RequestOutcome::Job(_)));
    assert_eq!(server.thread.join().unwrap(), 1);
}

#[tokio::test]
async fn a_client_certificate_is_shown_and_given_to_the_job() {
    let server = TlsServer::start(true, 2);
    let folder = TempDir::new().unwrap();
    let ca = Some(put(&folder, "ca.crt", CA));
    let without = client(&server.url, TlsFiles { ca: ca.clone(), ..TlsFiles::default() });
    assert!(matches!(without.request_job(Poll::AtOnce).await.outcome, RequestOutcome::Failed { .. }));
    let [cert, key] = [Some(put(&folder, "client.crt", CLIENT[0])), Some(put(&folder, "client.key", CLIENT[1]))];
    let outcome = client(&server.url, TlsFiles { ca, cert, key }).request_job(Poll::AtOnce).await.outcome;
    let RequestOutcome::Job(job) = outcome else { panic!("{outcome:?}") };
    assert_eq!(job.tls.cert.as_deref(), Some(CLIENT[0]));
    assert_eq!(job.tls.key.unwrap().expose(), CLIENT[1]);
    assert_eq!(server.thread.join().unwrap(), 1);
}

#[test]
fn files_that_cannot_be_used_are_left_out() {
    let folder = TempDir::new().unwrap();
    let garbage = Some(put(&folder, "garbage", "no certificate"));
    let broken = Some(put(&folder, "broken", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"));
    let missing = Some(folder.path().join("missing"));
    for files in [
        TlsFiles { ca: garbage.clone(), cert: garbage.clone(), key: garbage },
        TlsFiles { ca: broken, ..TlsFiles::default() },
        TlsFiles { ca: missing.clone(), cert: missing.clone(), key: missing },
    ] {
        let shown = format!("{files:?}");
        let pool = connections().pool(&files).unwrap();
        let tls = pool.current().unwrap().tls;
        assert_eq!(*tls, crate::gitlab::tls::JobTls::default(), "{shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn connections_are_made_anew_when_they_are_old() {
    let connections = Connections::new(ProxySettings::default(), Duration::from_secs(900));
    let pool = connections.pool(&TlsFiles::default()).unwrap();
    let tls = || Arc::as_ptr(&pool.current().unwrap().tls);
    let first = tls();
    tokio::time::advance(Duration::from_secs(900)).await;
    assert_eq!(tls(), first);
    let kept = pool.current().unwrap();
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_ne!(tls(), first);
    drop(kept);
}
