//! What a request asks for: which protocol, which version of it. Headers in, an answer out; pure.
//!
//! The names and the order of choice are kubelet's and apimachinery's (httpstream.Handshake, wsstream, remotecommand).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Request, Response, StatusCode};
use sha1::{Digest, Sha1};

use super::status::StatusFormat;
use super::websocket::Format;

const VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
/// What a WebSocket server appends to the client's key (RFC 6455, section 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Exec and attach, as the version of their protocol has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RemoteCommand {
    pub(super) status: StatusFormat,
    /// With a terminal the client opens a stream for its size (SPDY; over WebSocket the channel is always there).
    pub(super) resize: bool,
}

/// The protocol that was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol<S, W> {
    Spdy(S),
    WebSocket(W),
}

/// The same, for exec and attach.
pub(super) type RemoteProtocol = Protocol<RemoteCommand, (RemoteCommand, Format)>;

/// What was agreed on and the answer that says so, 101.
type Agreed<P> = Result<(P, Response<()>), Refusal>;

/// A protocol's name on the wire, and what it means.
type Names<T> = &'static [(&'static str, T)];

const fn remote_command(status: StatusFormat, resize: bool) -> RemoteCommand {
    RemoteCommand { status, resize }
}

const V5: &str = "v5.channel.k8s.io";
const V4: &str = "v4.channel.k8s.io";
const V3: &str = "v3.channel.k8s.io";
const V2: &str = "v2.channel.k8s.io";
const V1: &str = "channel.k8s.io";
const V4_BASE64: &str = "v4.base64.channel.k8s.io";
const V1_BASE64: &str = "base64.channel.k8s.io";

const JSON: RemoteCommand = remote_command(StatusFormat::Json, true);
const TEXT: RemoteCommand = remote_command(StatusFormat::Text, true);
const TEXT_NO_RESIZE: RemoteCommand = remote_command(StatusFormat::Text, false);

/// Over SPDY v5 is v4: what it adds is WebSocket's. Without a name it is v1, which clients of 1.0 spoke.
const REMOTE_COMMAND_SPDY: Names<RemoteCommand> =
    &[(V5, JSON), (V4, JSON), (V3, TEXT), (V2, TEXT_NO_RESIZE), (V1, TEXT_NO_RESIZE), ("", TEXT_NO_RESIZE)];
const REMOTE_COMMAND_WEBSOCKET: Names<(RemoteCommand, Format)> = &[
    (V5, (JSON, Format::Closing)),
    (V4, (JSON, Format::Binary)),
    (V4_BASE64, (JSON, Format::Base64)),
    (V3, (TEXT, Format::Binary)),
    (V2, (TEXT, Format::Binary)),
    (V1, (TEXT, Format::Binary)),
    (V1_BASE64, (TEXT, Format::Base64)),
    ("", (TEXT, Format::Binary)),
];
const PORT_FORWARD_SPDY: Names<()> = &[("portforward.k8s.io", ()), ("", ())];
const PORT_FORWARD_WEBSOCKET: Names<Format> = &[
    ("SPDY/3.1+portforward.k8s.io", Format::Tunnel),
    (V4, Format::Binary),
    (V4_BASE64, Format::Base64),
    ("", Format::Binary),
];

/// A request that is not served: status, words, and headers that say what would be.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) message: String,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), headers: Vec::new() }
    }
}

/// What to speak, for exec and attach.
pub(super) fn negotiate_remote_command<B>(request: &Request<B>) -> Agreed<RemoteProtocol> {
    negotiate(request, REMOTE_COMMAND_SPDY, REMOTE_COMMAND_WEBSOCKET)
}

/// What to speak, for port-forward.
pub(super) fn negotiate_port_forward<B>(request: &Request<B>) -> Agreed<Protocol<(), Format>> {
    negotiate(request, PORT_FORWARD_SPDY, PORT_FORWARD_WEBSOCKET)
}

/// The ports that a port-forward over channels names in its query: `port=80,443&port=8080`.
pub(super) fn ports(query: Option<&str>) -> Result<Vec<u16>, Refusal> {
    let bad = |message: String| Refusal::new(StatusCode::BAD_REQUEST, message);
    let mut ports = Vec::new();
    let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    for (_, value) in pairs.filter(|(name, _)| *name == "port" || *name == "ports") {
        for port in value.replace("%2C", ",").replace("%2c", ",").split(',') {
            match port.parse::<u16>() {
                Ok(port) if port > 0 => ports.push(port),
                _ => return Err(bad(format!("cannot read {port:?} as a port"))),
            }
        }
    }
    match ports.len() {
        0 => Err(bad("the query names no port; say ?port=80".into())),
        1..=127 => Ok(ports),
        count => Err(bad(format!("{count} ports in one request, of which 127 have room"))),
    }
}

fn negotiate<B, S: Copy, W: Copy>(request: &Request<B>, spdy: Names<S>, websocket: Names<W>) -> Agreed<Protocol<S, W>> {
    let headers = request.headers();
    let upgrade = words(headers, &UPGRADE);
    if !words(headers, &CONNECTION).iter().any(|word| word.eq_ignore_ascii_case("upgrade")) {
        return Err(no_upgrade());
    }
    let wants = |name: &str| upgrade.iter().any(|word| word.eq_ignore_ascii_case(name));
    if wants("websocket") {
        let accept = accept_key(headers)?;
        let (name, chosen) = choose(headers, &SEC_WEBSOCKET_PROTOCOL, websocket)?;
        let mut response = switching("websocket");
        response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
        if !name.is_empty() {
            response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
        }
        return Ok((Protocol::WebSocket(chosen), response));
    }
    if wants("SPDY/3.1") {
        let (name, chosen) = choose(headers, &VERSION, spdy)?;
        let mut response = switching("SPDY/3.1");
        if !name.is_empty() {
            response.headers_mut().insert(VERSION, HeaderValue::from_static(name));
        }
        return Ok((Protocol::Spdy(chosen), response));
    }
    Err(no_upgrade())
}

fn no_upgrade() -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "unable to upgrade: the request asks neither for SPDY/3.1 nor for websocket")
}

fn switching(upgrade: &'static str) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(upgrade));
    response
}

/// The first that the client names and we have; what we have for "" if it names none.
fn choose<T: Copy>(headers: &HeaderMap, header: &HeaderName, names: Names<T>) -> Result<(&'static str, T), Refusal> {
    let mut asked = words(headers, header);
    if asked.is_empty() {
        asked.push("");
    }
    let chosen = asked.iter().find_map(|asked| names.iter().find(|(name, _)| name == asked));
    chosen.copied().ok_or_else(|| {
        let message = format!("none of the protocols {asked:?} is known here");
        let mut refusal = Refusal::new(StatusCode::FORBIDDEN, message);
        for (name, _) in names.iter().filter(|(name, _)| !name.is_empty()) {
            refusal.headers.push((ACCEPTED, HeaderValue::from_static(name)));
        }
        refusal
    })
}

/// The words of all headers of that name: they may be given in one line or in several.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|word| !word.is_empty()).collect()
}

/// RFC 6455, section 4.2.
fn accept_key(headers: &HeaderMap) -> Result<HeaderValue, Refusal> {
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let mut refusal = Refusal::new(StatusCode::UPGRADE_REQUIRED, "only version 13 of WebSocket is known here");
        refusal.headers.push((SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")));
        return Err(refusal);
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    if STANDARD.decode(key).is_ok_and(|key| key.len() == 16) {
        let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
        if let Ok(accept) = HeaderValue::from_str(&STANDARD.encode(digest)) {
            return Ok(accept);
        }
    }
    Err(Refusal::new(StatusCode::BAD_REQUEST, "the Sec-WebSocket-Key is not 16 bytes in base64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        headers
            .iter()
            .fold(Request::builder(), |request, (name, value)| request.header(*name, *value))
            .body(())
            .unwrap()
    }

    const SPDY: [(&str, &str); 2] = [("connection", "keep-alive, Upgrade"), ("upgrade", "SPDY/3.1")];
    const WEBSOCKET: [(&str, &str); 4] = [
        ("connection", "Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn chosen(headers: &[&[(&str, &str)]]) -> Result<(RemoteProtocol, String), u16> {
        match negotiate_remote_command(&request(&headers.concat())) {
            Ok((protocol, response)) => {
                let name = response.headers().get(VERSION).or(response.headers().get(SEC_WEBSOCKET_PROTOCOL));
                Ok((protocol, name.map(|name| name.to_str().unwrap().to_owned()).unwrap_or_default()))
            }
            Err(refusal) => Err(refusal.status.as_u16()),
        }
    }

    #[test]
    fn the_clients_first_known_version_is_taken() {
        let version = |version| [("x-stream-protocol-version", version)];
        assert_eq!(
            chosen(&[&SPDY, &version("v9.channel.k8s.io"), &version(V4)]),
            Ok((Protocol::Spdy(JSON), V4.into()))
        );
        assert_eq!(
            chosen(&[&SPDY, &version("v3.channel.k8s.io, channel.k8s.io")]),
            Ok((Protocol::Spdy(TEXT), V3.into()))
        );
        assert_eq!(chosen(&[&SPDY]), Ok((Protocol::Spdy(TEXT_NO_RESIZE), String::new())));
        assert_eq!(chosen(&[&SPDY, &version("v9.channel.k8s.io")]), Err(403));
        let refusal = negotiate_remote_command(&request(&[&SPDY[..], &version("x")].concat())).unwrap_err();
        assert_eq!(refusal.headers.len(), 5);
    }

    #[test]
    fn websocket_subprotocols() {
        let protocol = |protocol| [("sec-websocket-protocol", protocol)];
        let of = |name| chosen(&[&WEBSOCKET, &protocol(name)]);
        assert_eq!(of("v5.channel.k8s.io"), Ok((Protocol::WebSocket((JSON, Format::Closing)), V5.into())));
        assert_eq!(
            of("x, v4.base64.channel.k8s.io"),
            Ok((Protocol::WebSocket((JSON, Format::Base64)), V4_BASE64.into()))
        );
        assert_eq!(of("base64.channel.k8s.io"), Ok((Protocol::WebSocket((TEXT, Format::Base64)), V1_BASE64.into())));
        assert_eq!(of("v6.channel.k8s.io"), Err(403));
        assert_eq!(chosen(&[&WEBSOCKET]), Ok((Protocol::WebSocket((TEXT, Format::Binary)), String::new())));
        let tunnel = [&WEBSOCKET[..], &protocol("SPDY/3.1+portforward.k8s.io")].concat();
        let (chosen, _) = negotiate_port_forward(&request(&tunnel)).unwrap();
        assert_eq!(chosen, Protocol::WebSocket(Format::Tunnel));
    }

    /// The example of RFC 6455, section 1.3.
    #[test]
    fn the_websocket_key_is_answered() {
        let (_, response) = negotiate_remote_command(&request(&WEBSOCKET)).unwrap();
        assert_eq!(response.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn what_is_no_upgrade_is_refused() {
        assert_eq!(chosen(&[]), Err(400));
        assert_eq!(chosen(&[&SPDY[1..]]), Err(400));
        assert_eq!(chosen(&[&[("connection", "upgrade"), ("upgrade", "h2c")]]), Err(400));
        assert_eq!(chosen(&[&WEBSOCKET[..2]]), Err(426));
        assert_eq!(chosen(&[&WEBSOCKET[..3], &[("sec-websocket-key", "c2hvcnQ=")]]), Err(400));
    }

    #[test]
    fn ports_of_a_query() {
        let of = |query| ports(query).map_err(|refusal| refusal.status.as_u16());
        assert_eq!(of(Some("port=80,443&x=1&port=8080")), Ok(vec![80, 443, 8080]));
        assert_eq!(of(Some("ports=80%2C443")), Ok(vec![80, 443]));
        for bad in [None, Some(""), Some("port="), Some("port=0"), Some("port=65536"), Some("port=80,")] {
            assert_eq!(of(bad), Err(400), "{bad:?}");
        }
        assert_eq!(of(Some(&vec!["port=1"; 128].join("&"))), Err(400));
    }
}
