//! What a client asks for, in the kubelet's words.

use super::super::request::Call;

/// The streams of an exec or attach (cri-streaming `remotecommand.NewOptions`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are four independent parameters")]
pub(super) struct Wanted {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

impl Wanted {
    /// `None` if nothing is asked for. A terminal has one output: `error` beside `tty` is dropped.
    pub(super) fn of(call: &Call) -> Option<Self> {
        let flag = |name| call.first(name) == Some("1");
        let (stdin, stdout, stderr, tty) = (flag("input"), flag("output"), flag("error"), flag("tty"));
        (stdin || stdout || stderr).then_some(Self { stdin, stdout, stderr: stderr && !tty, tty })
    }
}

/// Every value of `command`, in order.
pub(super) fn command(call: &Call) -> Vec<String> {
    call.all("command").map(str::to_owned).collect()
}

/// The ports of a port-forward over WebSocket channels: `port=80,81`, also repeated.
pub(super) fn ports(call: &Call) -> Result<Vec<u16>, String> {
    let mut ports = Vec::new();
    for text in call.all("port").flat_map(|list| list.split(',')).filter(|text| !text.is_empty()) {
        match text.parse::<u16>() {
            Ok(0) => return Err("port must be > 0".to_owned()),
            Ok(port) => ports.push(port),
            Err(error) => return Err(format!("unable to parse {text:?} as a port: {error}")),
        }
    }
    if ports.is_empty() {
        return Err("query parameter \"port\" is required".to_owned());
    }
    // A channel is a byte, and each port has two.
    if ports.len() > usize::from(u8::MAX) / 2 {
        return Err(format!("{} ports are too many: a WebSocket has channels for 127", ports.len()));
    }
    Ok(ports)
}
