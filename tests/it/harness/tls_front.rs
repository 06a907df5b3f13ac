//! TLS before a server that speaks plain HTTP, as a load balancer stands before GitLab. Its certificate is vouched
//! for by an authority that no image and no machine knows, over one in between that it sends along.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Ends with what it serves when it is dropped.
#[derive(Debug)]
pub(crate) struct TlsFront {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl TlsFront {
    pub(crate) async fn start(host: &str, behind: SocketAddr) -> Self {
        let listener = TcpListener::bind((host, 0)).await.expect("an address");
        let address = listener.local_addr().expect("an address");
        let acceptor = acceptor();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(acceptor.clone(), socket, behind));
            }
        });
        Self { address, _tasks: tasks }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }
}

/// The file of the authority behind it all.
pub(crate) fn authority() -> PathBuf {
    file("root.crt")
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gitlab/tests/tls_files").join(name)
}

fn acceptor() -> TlsAcceptor {
    let certificates = ["deep.crt", "between.crt"].map(|name| CertificateDer::from_pem_file(file(name)).expect(name));
    let key = PrivateKeyDer::from_pem_file(file("deep.key")).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions").with_no_client_auth().with_single_cert(certificates.to_vec(), key);
    TlsAcceptor::from(Arc::new(config.expect("a certificate and its key")))
}

/// A client that hangs up, or does not trust us, is no failure of ours.
async fn serve(acceptor: TlsAcceptor, socket: TcpStream, behind: SocketAddr) {
    if let (Ok(mut near), Ok(mut far)) = (acceptor.accept(socket).await, TcpStream::connect(behind).await) {
        tokio::io::copy_bidirectional(&mut near, &mut far).await.ok();
    }
}
