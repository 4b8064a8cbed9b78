//! Window sizes: a stream of JSON objects from the client, one size at a time for the provider.

use serde::Deserialize;
use tokio::sync::mpsc;

use super::super::pipe::Inlet;
use crate::provider::TerminalSize;

/// Bytes of an object that is not complete yet, and more than any has.
const LONGEST: usize = 1024;

#[derive(Deserialize)]
struct Size {
    #[serde(rename = "Width", alias = "width")]
    width: u16,
    #[serde(rename = "Height", alias = "height")]
    height: u16,
}

/// Hands sizes on until the client sends no more, or the provider wants none. What the provider has not taken
/// yet is replaced by what is newer.
pub(super) async fn forward(inlet: Option<Inlet>, sizes: mpsc::Sender<TerminalSize>) {
    let Some(mut inlet) = inlet else { return };
    let (mut text, mut latest) = (Vec::new(), None);
    loop {
        tokio::select! {
            permit = sizes.reserve(), if latest.is_some() => match (permit, latest.take()) {
                (Ok(permit), Some(size)) => permit.send(size),
                _ => return,
            },
            bytes = inlet.next() => {
                let Some(bytes) = bytes else { break };
                text.extend_from_slice(&bytes);
                match take_sizes(&mut text) {
                    Ok(Some(size)) => latest = Some(size),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::debug!(%error, "window sizes are not understood");
                        break;
                    }
                }
            }
        }
    }
    if let Some(size) = latest {
        // A provider that looks at no sizes is no fault.
        let _ = sizes.send(size).await;
    }
}

/// Takes the complete objects off the front, and returns the last.
pub(in super::super) fn take_sizes(text: &mut Vec<u8>) -> Result<Option<TerminalSize>, serde_json::Error> {
    let mut objects = serde_json::Deserializer::from_slice(text).into_iter::<Size>();
    let mut last = None;
    let end = loop {
        let end = objects.byte_offset();
        match objects.next() {
            Some(Ok(Size { width, height })) => last = Some(TerminalSize { width, height }),
            None => break objects.byte_offset(),
            Some(Err(error)) if error.is_eof() && text.len() - end < LONGEST => break end,
            Some(Err(error)) => return Err(error),
        }
    };
    text.drain(..end);
    Ok(last)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::super::pipe::inlet;
    use super::*;

    fn size(width: u16, height: u16) -> TerminalSize {
        TerminalSize { width, height }
    }

    #[test]
    fn objects_may_come_in_pieces_and_several_at_once() {
        let mut text = b"{\"Width\":80,\"Height\":24}\n{\"Width\":81,\"Height\":24}\n{\"Wid".to_vec();
        assert_eq!(take_sizes(&mut text).unwrap(), Some(size(81, 24)));
        text.extend_from_slice(b"th\":1,\"Height\":2}");
        assert_eq!(take_sizes(&mut text).unwrap(), Some(size(1, 2)));
        assert_eq!(take_sizes(&mut text).unwrap(), None);
        assert!(take_sizes(&mut b"{\"Width\":80000,\"Height\":24}".to_vec()).is_err());
        assert!(take_sizes(&mut b"nonsense".to_vec()).is_err());
        let mut endless = b"{\"Width\":".to_vec();
        endless.resize(LONGEST + 20, b' ');
        assert!(take_sizes(&mut endless).is_err(), "an object without an end is not collected for ever");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_provider_gets_the_first_size_and_then_the_latest() {
        let (sender, inlet) = inlet();
        let (sizes, mut receiver) = mpsc::channel(1);
        let forward = tokio::spawn(forward(Some(inlet), sizes));
        for width in 1..=20 {
            let text = format!("{{\"Width\":{width},\"Height\":5}}\n");
            sender.send(Bytes::from(text)).await.unwrap();
            tokio::task::yield_now().await;
        }
        drop(sender);
        // The provider looks only now.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(receiver.recv().await, Some(size(1, 5)));
        assert_eq!(receiver.recv().await, Some(size(20, 5)));
        assert_eq!(receiver.recv().await, None);
        forward.await.unwrap();
    }
}
