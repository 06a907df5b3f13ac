//! Peers that are no good SSH servers, and logins that OpenSSH does not offer without PAM.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use russh::keys::{Algorithm, PrivateKey};
use russh::server::{self, Auth, Response, Server as _};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::sshd::instance;
use crate::config::resolved::StaticHost;
use crate::fleeting::access::{DockerEndpoint, Readiness, Settings};
use crate::fleeting::connector::Instance;
use crate::fleeting::connector::error::{DialError, ReadyError};
use crate::fleeting::host_keys::HostKeys;
use crate::time;

const SETTINGS: Settings =
    Settings { keepalive: Duration::from_secs(5), timeout: Duration::from_secs(15), use_external_addr: false };

fn at(address: &str, settings: Settings) -> Instance {
    let host = StaticHost {
        external_addr: Some(address.to_owned()),
        internal_addr: None,
        username: Some("ci".to_owned()),
        password: Some("open sesame".into()),
        key_path: None,
        protocol: None,
        port: None,
        os: None,
        arch: None,
        timeout: None,
        host_key: None,
    };
    instance(host, settings, HostKeys::default())
}

#[tokio::test]
async fn nothing_that_listens_is_refused_and_not_dead() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let settings = Settings { timeout: Duration::from_millis(500), ..SETTINGS };
    let ReadyError::Dial(error) = at(&address, settings).ready(&Readiness::default()).await.unwrap_err() else {
        panic!("no dial error")
    };
    assert!(error.is_refused() && !error.is_dead() && error.is_retryable(), "{error:?}");
    assert!(matches!(error, DialError::GaveUp { attempts: 3.., .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_more_is_dead_and_its_connection_is_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut peer = JoinSet::new();
    peer.spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
        let mut said = Vec::new();
        // Ends when the other side gives up, in the middle of the key exchange.
        socket.read_to_end(&mut said).await.map(|_| said.len())
    });
    let started = time::now().instant;
    let settings = Settings { timeout: Duration::from_secs(3), ..SETTINGS };
    let ReadyError::Dial(error) = at(&address, settings).ready(&Readiness::default()).await.unwrap_err() else {
        panic!("no dial error")
    };
    assert!(error.is_dead() && !error.is_refused(), "{error:?}");
    assert!(time::now().instant - started >= Duration::from_secs(10));
    assert!(peer.join_next().await.unwrap().unwrap().unwrap() > 100);
}

#[tokio::test]
async fn a_peer_that_hangs_up_is_tried_again_until_it_serves() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let hung_up = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&hung_up);
    let mut peer = JoinSet::new();
    peer.spawn(async move {
        for _ in 0..3 {
            let (socket, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            drop(socket);
        }
        Asking::Password.serve(listener).await;
    });
    at(&address, SETTINGS).ready(&Readiness::default()).await.unwrap();
    assert_eq!(hung_up.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn what_is_no_ssh_server_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut peer = JoinSet::new();
    peer.spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        }
    });
    let settings = Settings { timeout: Duration::from_millis(300), ..SETTINGS };
    let error = at(&address, settings).ready(&Readiness::default()).await.unwrap_err();
    let ReadyError::Dial(error) = error else { panic!("{error:?}") };
    assert!(!error.is_dead(), "{error:?}");
}

#[tokio::test]
async fn a_peer_that_floods_before_the_login_is_left_after_a_fixed_number_of_bytes() {
    // Short lines and one without an end before the version; packets that are ignored after it.
    let ignored = [&[0, 0, 0, 12, 6, 2, 0, 0, 0, 0, 0][..], &[0; 5][..]].concat();
    for (first, repeated) in [
        (&b""[..], b"\r\n".repeat(4096)),
        (b"", b"SHH-2.0-x\r\n".repeat(1024)),
        (b"", vec![b'x'; 8192]),
        (b"SSH-2.0-OpenSSH_9.2\r\n", ignored.repeat(512)),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let dials = Arc::new(AtomicUsize::new(0));
        let (counted, shown) = (Arc::clone(&dials), String::from_utf8_lossy(&repeated[..8]).into_owned());
        let mut peer = JoinSet::new();
        peer.spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let mut written = socket.write_all(first).await;
                while written.is_ok() {
                    written = socket.write_all(&repeated).await;
                }
            }
        });
        let ReadyError::Dial(error) = at(&address, SETTINGS).ready(&Readiness::default()).await.unwrap_err() else {
            panic!("no dial error")
        };
        let text = crate::error_chain::Chain(&error).to_string();
        let expected = ["sent more than 262144 bytes before the login", "invalid SSH version string"];
        let is_version = usize::from(first.is_empty() && text.contains(expected[1]));
        assert!(text.contains(expected[is_version]), "{shown:?}: {text}");
        assert_eq!(dials.load(Ordering::SeqCst), 1, "such a server is not dialed again: {shown:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn few_handshakes_are_under_way_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, highest) = (Arc::clone(&open), Arc::clone(&most));
    let mut peer = JoinSet::new();
    peer.spawn(async move {
        let mut sockets = JoinSet::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            highest.fetch_max(counted.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let counted = Arc::clone(&counted);
            sockets.spawn(async move {
                drop(socket.read_to_end(&mut Vec::new()).await);
                counted.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    let instance = at(&address, SETTINGS);
    let mut dials = JoinSet::new();
    for _ in 0..20 {
        let instance = instance.clone();
        dials.spawn(async move { instance.docker(DockerEndpoint::default()).await.is_err() });
    }
    assert!(dials.join_all().await.into_iter().all(|failed| failed));
    let most = most.load(Ordering::SeqCst);
    assert!((2..=4).contains(&most), "{most} at once");
}

/// What a server asks of those who log in.
#[derive(Clone, Copy)]
enum Asking {
    Password,
    Questions,
}

#[derive(Clone)]
struct Login(Asking);

impl Asking {
    async fn serve(self, listener: TcpListener) {
        let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap();
        let config = server::Config {
            keys: vec![key],
            auth_rejection_time: Duration::from_millis(1),
            ..server::Config::default()
        };
        Login(self).run_on_socket(Arc::new(config), &listener).await.unwrap();
    }
}

impl server::Server for Login {
    type Handler = Self;

    fn new_client(&mut self, _: Option<std::net::SocketAddr>) -> Self {
        self.clone()
    }
}

impl server::Handler for Login {
    type Error = russh::Error;

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, russh::Error> {
        let right = matches!(self.0, Asking::Password) && (user, password) == ("ci", "open sesame");
        Ok(if right { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _user: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, russh::Error> {
        if matches!(self.0, Asking::Password) {
            return Ok(Auth::reject());
        }
        let Some(mut response) = response else {
            return Ok(Auth::Partial {
                name: Cow::Borrowed("login"),
                instructions: Cow::Borrowed(""),
                prompts: Cow::Borrowed(&[(Cow::Borrowed("Password: "), false)]),
            });
        };
        let right = response.next().is_some_and(|answer| &answer[..] == b"open sesame");
        Ok(if right { Auth::Accept } else { Auth::reject() })
    }
}

#[tokio::test]
async fn a_password_is_given_however_it_is_asked_for() {
    for asking in [Asking::Password, Asking::Questions] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut server = JoinSet::new();
        server.spawn(asking.serve(listener));
        at(&address, SETTINGS).ready(&Readiness::default()).await.unwrap();
    }
}
