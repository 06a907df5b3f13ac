//! Who vouches for a TLS peer, and which certificates did.
//!
//! The helper runs in the images of jobs, and many of them have no authorities: for those there are the
//! ones of Mozilla's list that come with this program. The chain that a connection was trusted by is kept
//! for the job, whose git and helper know GitLab's authority by it (the reference:
//! `CI_SERVER_TLS_CA_FILE`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use tracing::debug;

use super::chain;
use super::tls::ClientIdentity;

/// Peers whose chains are kept. A pool speaks to one server and to where that one redirects.
const CHAINS: usize = 16;

/// The certificates that a peer may be vouched for by.
#[derive(Debug)]
pub(crate) struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
}

impl Authorities {
    /// Those of this machine, and more. The variables `SSL_CERT_FILE` and `SSL_CERT_DIR` count, as for OpenSSL.
    pub(crate) fn of_this_machine(more: Vec<CertificateDer<'static>>) -> Self {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            debug!(%error, "authorities of this machine left out");
        }
        Self::of(found.certs, more)
    }

    fn of(machine: Vec<CertificateDer<'static>>, more: Vec<CertificateDer<'static>>) -> Self {
        let mut certificates =
            if machine.is_empty() { webpki_root_certs::TLS_SERVER_ROOT_CERTS.to_vec() } else { machine };
        certificates.extend(more);
        Self { certificates }
    }

    /// Whether any of these can vouch for a peer.
    pub(super) fn can_vouch(certificates: &[CertificateDer<'static>]) -> bool {
        RootCertStore::empty().add_parsable_certificates(certificates.iter().cloned()).0 > 0
    }

    /// The TLS settings of a client that trusts these, and what it has seen of its peers.
    ///
    /// # Errors
    /// The identity's key is not the certificate's.
    pub(crate) fn client(
        self,
        identity: Option<&ClientIdentity>,
    ) -> Result<(ClientConfig, Arc<Witness>), rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let witness = Arc::new(Witness::new(self, &provider)?);
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&witness) as Arc<dyn ServerCertVerifier>);
        let config = match identity {
            Some(identity) => builder.with_client_auth_cert(identity.certificates.clone(), identity.key.clone_key())?,
            None => builder.with_no_client_auth(),
        };
        Ok((config, witness))
    }
}

/// Verifies peers as rustls does, and keeps by whom they were vouched for.
#[derive(Debug)]
pub(crate) struct Witness {
    verifier: Arc<WebPkiServerVerifier>,
    authorities: Authorities,
    /// In PEM, by the peer's own certificate.
    chains: Mutex<BTreeMap<Vec<u8>, Arc<str>>>,
}

impl Witness {
    fn new(authorities: Authorities, provider: &Arc<CryptoProvider>) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        let (_, ignored) = roots.add_parsable_certificates(authorities.certificates.iter().cloned());
        if ignored > 0 {
            debug!(ignored, "authorities that cannot be read");
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
        let verifier = verifier.map_err(|error| rustls::Error::Other(OtherError(Arc::new(error))))?;
        Ok(Self { verifier, authorities, chains: Mutex::default() })
    }

    /// The chain of a peer that was verified, from its own certificate to the authority, in PEM.
    #[cfg(feature = "manager")]
    pub(super) fn chain_of(&self, peer: &[u8]) -> Option<Arc<str>> {
        self.chains.lock().unwrap_or_else(PoisonError::into_inner).get(peer).cloned()
    }

    fn keep(&self, peer: &CertificateDer<'_>, others: &[CertificateDer<'_>]) {
        let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        if chains.contains_key(peer.as_ref()) {
            return;
        }
        if chains.len() >= CHAINS {
            chains.clear();
        }
        let chain = chain::pem(&chain::certificates(peer, others, &self.authorities.certificates));
        chains.insert(peer.to_vec(), chain.into());
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        self.keep(end_entity, intermediates);
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn machine_without_authorities_trusts_those_that_come_with_the_program() {
        let own = CertificateDer::from_pem_slice(include_bytes!("tests/tls_files/ca.crt")).unwrap();
        let bundled = Authorities::of(Vec::new(), vec![own.clone()]).certificates;
        assert!(bundled.len() > 100 && bundled.contains(&own), "{}", bundled.len());
        assert_eq!(Authorities::of(vec![own.clone()], Vec::new()).certificates, [own]);
    }
}
