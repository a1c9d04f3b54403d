//! Whom calls to AWS trust, and what is said of a certificate that is not.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use aws_credential_types::Credentials;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    date_time_ymd,
};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tempfile::TempDir;

use super::fake::{ACCOUNT, CANARY, Fake, aws_that_trusts, identity};
use crate::{
    api::reason::Reason,
    aws::{Base, Class, Error, SECRETS_MANAGER, Source, client::timeouts, remote::Proven, trust::Trust},
};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Listens with a certificate and says whom it takes everybody for; ends with the process.
fn serve(by: &Authority, name: &str, expired: bool) -> u16 {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    if expired {
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
    }
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, by).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = ServerConnection::new(config.clone()).unwrap();
            let mut stream = StreamOwned::new(connection, stream);
            // One request fits into a read or two; a client that refuses the certificate sends none.
            let mut request = Vec::new();
            let mut chunk = [0; 4096];
            while !String::from_utf8_lossy(&request).contains("Action=") {
                match stream.read(&mut chunk) {
                    Ok(count) if count > 0 => request.extend_from_slice(&chunk[..count]),
                    _ => break,
                }
            }
            let body = format!(
                "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:iam::{ACCOUNT}:user/own</Arn>\
                 <UserId>U</UserId><Account>{ACCOUNT}</Account></GetCallerIdentityResult></GetCallerIdentityResponse>"
            );
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            let _refused = stream.write_all((head + &body).as_bytes());
            stream.conn.send_close_notify();
            let _ended = stream.flush();
        }
    });
    port
}

/// A bundle of these, with what people have in such files besides.
fn bundle(folder: &TempDir, authorities: &[&Authority]) -> PathBuf {
    let path = folder.path().join("ca.pem");
    let mut text = "# Our authorities\n".to_owned();
    for authority in authorities {
        text += &authority.pem();
        text += "\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    }
    std::fs::write(&path, text).unwrap();
    path
}

async fn proven(trust: &Trust, port: u16) -> Result<Proven, Error> {
    let own = Credentials::new("OWN", CANARY, None, None, "test");
    let endpoint = format!("https://localhost:{port}");
    let aws = aws_that_trusts(trust, &endpoint, timeouts(), own, Fake::default());
    let source = aws.intern(Source {
        identity: Arc::new(identity("uid-own", Base::Own, &[])),
        region: "eu-central-1".into(),
        service: &SECRETS_MANAGER,
    });
    aws.prove(source).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_authorities_of_a_bundle_are_trusted_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, others) = (authority("ours"), authority("others"));
    let trust = Trust::from_file(bundle(&folder, &[&others, &ours]))
        .await
        .unwrap();
    let port = serve(&ours, "localhost", false);
    assert_eq!(&*proven(&trust, port).await.unwrap().account, ACCOUNT);

    let trust = Trust::from_file(bundle(&folder, &[&others])).await.unwrap();
    for trust in [trust, Trust::default()] {
        let error = proven(&trust, port).await.unwrap_err();
        assert_eq!(
            (error.class(), error.reason()),
            (Class::Untrusted, Reason::ProviderUnavailable)
        );
        assert_eq!(
            error.to_string(),
            "Cannot authenticate to AWS as the operator's own identity. The certificate of the endpoint is not trusted: none of \
             the known authorities has signed it. Correct the endpoint, the proxy on the way, or the certificate authorities \
             in the file that AWS_CA_BUNDLE names. Keyturn retries by itself."
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_not_accepted_is_told_apart_from_an_endpoint_that_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let ours = authority("ours");
    let trust = Trust::from_file(bundle(&folder, &[&ours])).await.unwrap();
    for (name, expired, said) in [
        ("localhost", true, "has expired"),
        ("proxy.example.com", false, "is for another name"),
    ] {
        let error = proven(&trust, serve(&ours, name, expired)).await.unwrap_err();
        assert_eq!(error.class(), Class::Untrusted, "{error}");
        assert!(error.to_string().contains(said), "{error}");
    }
    let free = TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let error = proven(&trust, free).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable);
    assert!(error.to_string().contains("AWS cannot be reached"), "{error}");
}

const CHILD: &str = "KEYTURN_TEST_TRUSTS";
const NAME: &str = "aws::tests::trust::a_bundle_of_the_environment_counts_with_and_without_a_proxy";

/// A proxy that leads every tunnel to `port` and counts them; ends with the process.
fn proxy(port: u16) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap().port();
    let tunnels = Arc::new(AtomicUsize::new(0));
    let counted = tunnels.clone();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).is_ok_and(|count| count > 0) {
                head.push(byte[0]);
            }
            assert!(
                head.starts_with(b"CONNECT "),
                "{}",
                String::from_utf8_lossy(&head)
            );
            counted.fetch_add(1, Ordering::SeqCst);
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
            for (mut from, mut to) in [
                (client.try_clone().unwrap(), server.try_clone().unwrap()),
                (server, client),
            ] {
                thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
        }
    });
    (address, tunnels)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_of_the_environment_counts_with_and_without_a_proxy() {
    if let Ok(port) = std::env::var(CHILD) {
        let trust = Trust::from_environment().await.unwrap();
        let proven = proven(&trust, port.parse().unwrap()).await;
        assert_eq!(&*proven.unwrap().account, ACCOUNT);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let ours = authority("ours");
    let file = bundle(&folder, &[&ours]);
    let port = serve(&ours, "localhost", false);
    let (proxy, tunnels) = proxy(port);
    let url = format!("http://127.0.0.1:{proxy}");
    for (variables, through) in [
        (vec![], 0),
        (vec![("HTTPS_PROXY", &*url)], 1),
        (
            vec![("HTTPS_PROXY", &*url), ("NO_PROXY", "example.com,localhost")],
            1,
        ),
    ] {
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", NAME, "--nocapture"]).env_clear();
        child.env(CHILD, port.to_string()).env("AWS_CA_BUNDLE", &file);
        child
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let ended = tokio::time::timeout(Duration::from_mins(1), child.output()).await;
        let output = ended.unwrap().unwrap();
        assert!(
            output.status.success(),
            "{variables:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(tunnels.load(Ordering::SeqCst), through, "{variables:?}");
    }
}
