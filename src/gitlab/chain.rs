//! The certificates that a verified peer was trusted by, as a job gets them. Pure.
//!
//! They are found by names: a certificate's issuer is the subject of the next. The server's own come
//! first, as it sent them; the authority at the end, which a server does not send, is one of those that we
//! trust. The reference writes the chains that Go has verified: the server's own certificate, those in
//! between, the authority, each once.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// As in PEM files everywhere (RFC 7468).
const LINE: usize = 64;

/// The peer's certificate, those between, and the authorities, each once. What the names lead to by no way is
/// left out: a server may send more than is needed, and nobody vouched for that.
pub(super) fn certificates<'a>(
    peer: &'a CertificateDer<'a>,
    others: &'a [CertificateDer<'a>],
    authorities: &'a [CertificateDer<'a>],
) -> Vec<&'a CertificateDer<'a>> {
    let mut found = vec![peer];
    let mut next = 0;
    while let Some(certificate) = found.get(next).copied() {
        next += 1;
        let Some(issuer) = Names::of(certificate).filter(|names| names.subject != names.issuer) else { continue };
        let is_issuer = |other: &&CertificateDer<'_>| {
            Names::subject_of_authority(other).is_some_and(|subject| subject == issuer.issuer)
        };
        let mut vouching: Vec<_> = authorities.iter().filter(is_issuer).collect();
        if vouching.is_empty() {
            vouching = others.iter().filter(is_issuer).collect();
        }
        for certificate in vouching {
            if !found.contains(&certificate) {
                found.push(certificate);
            }
        }
    }
    found
}

/// One after the other, without an end of line after the last.
pub(super) fn pem(certificates: &[&CertificateDer<'_>]) -> String {
    let mut text = String::new();
    for certificate in certificates {
        let encoded = STANDARD.encode(certificate);
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in encoded.as_bytes().chunks(LINE) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text.truncate(text.trim_end().len());
    text
}

/// As they stand in the certificate.
struct Names {
    subject: Vec<u8>,
    issuer: Vec<u8>,
}

impl Names {
    /// `None` where it cannot be read, such as one of X.509's first version.
    fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let read = EndEntityCert::try_from(certificate).ok()?;
        Some(Self { subject: read.subject().to_vec(), issuer: read.issuer().to_vec() })
    }

    /// Old authorities are of X.509's first version.
    fn subject_of_authority(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
        Some(webpki::anchor_from_trusted_cert(certificate).ok()?.subject.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;

    use super::*;

    fn certificate(name: &str) -> CertificateDer<'static> {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gitlab/tests/tls_files").join(name);
        CertificateDer::from_pem_file(path).unwrap()
    }

    fn check(others: &[&str], authorities: &[&str], expected: &[&str]) {
        let [others, authorities, expected] =
            [others, authorities, expected].map(|names| names.iter().map(|name| certificate(name)).collect::<Vec<_>>());
        let peer = certificate("deep.crt");
        let found = certificates(&peer, &others, &authorities);
        assert!(found.iter().copied().eq(expected.iter()), "{}", pem(&found));
    }

    #[test]
    fn chain_goes_over_what_the_server_sent_to_the_authority_that_it_did_not_send() {
        check(&["between.crt"], &["other-ca.crt", "root.crt"], &["deep.crt", "between.crt", "root.crt"]);
    }

    #[test]
    fn certificates_that_vouch_for_nothing_are_left_out() {
        check(&["other-ca.crt", "client.crt", "between.crt"], &["root.crt"], &["deep.crt", "between.crt", "root.crt"]);
    }

    #[test]
    fn authority_that_is_trusted_ends_the_chain_and_stands_there_once() {
        check(&["between.crt", "root.crt"], &["root.crt"], &["deep.crt", "between.crt", "root.crt"]);
        check(&["between.crt"], &["between.crt", "root.crt"], &["deep.crt", "between.crt", "root.crt"]);
    }

    #[test]
    fn text_is_what_openssl_would_write() {
        let file = include_str!("tests/tls_files/ca.crt");
        assert_eq!(pem(&[&certificate("ca.crt")]), file.trim_end());
        let twice = pem(&[&certificate("ca.crt"), &certificate("ca.crt")]);
        assert_eq!(twice, format!("{0}\n{0}", file.trim_end()));
    }
}
