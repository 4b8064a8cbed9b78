//! Prometheus' protobuf form of a document (`io.prometheus.client.MetricFamily`, each with its length before it), from
//! the text form, which says the same.
//!
//! Source: `github.com/prometheus/client_model`, `metrics.proto`.

use std::collections::HashMap;

/// A family being read.
#[derive(Default)]
struct Family {
    name: String,
    help: String,
    kind: Kind,
    metrics: Vec<Metric>,
    /// Where the metric of these labels is.
    known: HashMap<Labels, usize>,
}

type Labels = Vec<(String, String)>;

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    #[default]
    Untyped,
    Histogram,
}

/// All samples of one set of labels.
#[derive(Default)]
struct Metric {
    labels: Labels,
    value: f64,
    sum: f64,
    count: u64,
    buckets: Vec<(f64, u64)>,
    time: Option<i64>,
}

/// The document. Lines that are none of the text format's are left out.
pub(crate) fn of_text(text: &str) -> Vec<u8> {
    let mut document = Vec::new();
    let mut family = Family::default();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            write(&std::mem::take(&mut family), &mut document);
            (family.name, family.help) = (name.to_owned(), unescaped(help));
        } else if let Some((_, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            family.kind = match kind {
                "counter" => Kind::Counter,
                "gauge" => Kind::Gauge,
                "histogram" => Kind::Histogram,
                _ => Kind::Untyped,
            };
        } else if !line.starts_with('#') {
            family.take(line);
        }
    }
    write(&family, &mut document);
    document
}

impl Family {
    fn take(&mut self, line: &str) -> Option<()> {
        let (name, mut labels, rest) = sample(line)?;
        let (value, time) =
            rest.trim().split_once(' ').map_or((rest.trim(), None), |(value, time)| (value, Some(time)));
        let value: f64 = value.parse().ok()?;
        let end = match self.kind {
            Kind::Histogram => {
                let at = labels.iter().position(|(name, _)| name == "le");
                at.and_then(|at| labels.remove(at).1.parse::<f64>().ok())
            }
            _ => None,
        };
        let next = self.metrics.len();
        let at = *self.known.entry(labels.clone()).or_insert(next);
        if at == next {
            self.metrics.push(Metric { labels, ..Metric::default() });
        }
        let metric = &mut self.metrics[at];
        metric.time = time.and_then(|time| time.parse().ok());
        match (self.kind, name.strip_prefix(self.name.as_str())?) {
            (Kind::Histogram, "_bucket") => metric.buckets.push((end?, value as u64)),
            (Kind::Histogram, "_sum") => metric.sum = value,
            (Kind::Histogram, "_count") => metric.count = value as u64,
            _ => metric.value = value,
        }
        Some(())
    }
}

/// A line's name, labels, and what follows them.
fn sample(line: &str) -> Option<(&str, Labels, &str)> {
    let Some((name, mut rest)) = line.split_once('{') else {
        let (name, rest) = line.split_once(' ')?;
        return Some((name, Labels::new(), rest));
    };
    let mut labels = Labels::new();
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((name, labels, rest));
        }
        let (label, after) = rest.trim_start_matches(',').split_once("=\"")?;
        let mut escaped = false;
        let end = after.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        })?;
        labels.push((label.to_owned(), unescaped(&after[..end])));
        rest = &after[end + 1..];
    }
}

fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (c, c == '\\') {
            (_, true) => match characters.next() {
                Some('n') => plain.push('\n'),
                Some(other) => plain.push(other),
                None => {}
            },
            (c, false) => plain.push(c),
        }
    }
    plain
}

/// A family that has samples, with its length before it.
fn write(family: &Family, document: &mut Vec<u8>) {
    if family.metrics.is_empty() {
        return;
    }
    let mut message = Message::default();
    message.bytes(1, family.name.as_bytes());
    message.bytes(2, family.help.as_bytes());
    let kind = match family.kind {
        Kind::Counter => 0,
        Kind::Gauge => 1,
        Kind::Untyped => 3,
        Kind::Histogram => 4,
    };
    message.number(3, kind);
    for metric in &family.metrics {
        message.message(4, &metric.message(family.kind));
    }
    varint(message.0.len() as u64, document);
    document.extend(message.0);
}

impl Metric {
    fn message(&self, kind: Kind) -> Message {
        let mut message = Message::default();
        for (name, value) in &self.labels {
            let mut pair = Message::default();
            pair.bytes(1, name.as_bytes());
            pair.bytes(2, value.as_bytes());
            message.message(1, &pair);
        }
        let mut content = Message::default();
        let field = match kind {
            Kind::Gauge => 2,
            Kind::Counter => 3,
            Kind::Untyped => 5,
            Kind::Histogram => 7,
        };
        if kind == Kind::Histogram {
            content.number(1, self.count);
            content.double(2, self.sum);
            // The last bucket is what the count says.
            for (end, count) in self.buckets.iter().filter(|(end, _)| end.is_finite()) {
                let mut bucket = Message::default();
                bucket.number(1, *count);
                bucket.double(2, *end);
                content.message(3, &bucket);
            }
        } else {
            content.double(1, self.value);
        }
        message.message(field, &content);
        if let Some(time) = self.time {
            message.number(6, time.cast_unsigned());
        }
        message
    }
}

/// A message being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn key(&mut self, field: u64, form: u64) {
        varint(field << 3 | form, &mut self.0);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        varint(value, &mut self.0);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, 2);
        varint(value.len() as u64, &mut self.0);
        self.0.extend(value);
    }

    fn message(&mut self, field: u64, value: &Self) {
        self.bytes(field, &value.0);
    }
}

fn varint(mut value: u64, into: &mut Vec<u8>) {
    while value >= 0x80 {
        // The low seven bits, and the sign that more follow.
        into.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::of_text;

    /// `metrics.proto`, as far as it is written.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Family {
        #[prost(string, optional, tag = "1")]
        name: Option<String>,
        #[prost(string, optional, tag = "2")]
        help: Option<String>,
        #[prost(int32, optional, tag = "3")]
        kind: Option<i32>,
        #[prost(message, repeated, tag = "4")]
        metrics: Vec<Metric>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Metric {
        #[prost(message, repeated, tag = "1")]
        labels: Vec<Pair>,
        #[prost(message, optional, tag = "2")]
        gauge: Option<Value>,
        #[prost(message, optional, tag = "3")]
        counter: Option<Value>,
        #[prost(int64, optional, tag = "6")]
        time: Option<i64>,
        #[prost(message, optional, tag = "7")]
        histogram: Option<Histogram>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Pair {
        #[prost(string, optional, tag = "1")]
        name: Option<String>,
        #[prost(string, optional, tag = "2")]
        value: Option<String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Value {
        #[prost(double, optional, tag = "1")]
        value: Option<f64>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Histogram {
        #[prost(uint64, optional, tag = "1")]
        count: Option<u64>,
        #[prost(double, optional, tag = "2")]
        sum: Option<f64>,
        #[prost(message, repeated, tag = "3")]
        buckets: Vec<Bucket>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Bucket {
        #[prost(uint64, optional, tag = "1")]
        count: Option<u64>,
        #[prost(double, optional, tag = "2")]
        end: Option<f64>,
    }

    fn read(text: &str) -> Vec<Family> {
        let bytes = of_text(text);
        let (mut rest, mut families) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            families.push(Family::decode_length_delimited(&mut rest).unwrap());
        }
        families
    }

    fn pair(name: &str, value: &str) -> Pair {
        Pair { name: Some(name.to_owned()), value: Some(value.to_owned()) }
    }

    #[test]
    fn each_family_says_in_protobuf_what_it_says_in_text() {
        let text = "# HELP a_total Things\\nof two lines\n# TYPE a_total counter\n\
                    a_total{x=\"1\",y=\"a \\\"b\\\\,c}\"} 2.5 -1700000000000\n# HELP b B\n# TYPE b gauge\nb -3\n\
                    # HELP none None\n# TYPE none gauge\n\
                    # HELP h H\n# TYPE h histogram\nh_bucket{k=\"v\",le=\"0.5\"} 1\nh_bucket{k=\"v\",le=\"+Inf\"} 3\n\
                    h_sum{k=\"v\"} 4.25\nh_count{k=\"v\"} 3\nh_bucket{k=\"w\",le=\"+Inf\"} 0\nh_sum{k=\"w\"} 0\n\
                    h_count{k=\"w\"} 0\n";
        let families = read(text);
        let names: Vec<_> =
            families.iter().map(|family| (family.name.as_deref().unwrap(), family.kind)).collect();
        assert_eq!(names, [("a_total", Some(0)), ("b", Some(1)), ("h", Some(4))]);
        assert_eq!(families[0].help.as_deref(), Some("Things\nof two lines"));
        let counted = &families[0].metrics[0];
        assert_eq!(counted.labels, [pair("x", "1"), pair("y", "a \"b\\,c}")]);
        assert_eq!(counted.counter, Some(Value { value: Some(2.5) }));
        assert_eq!(counted.time, Some(-1_700_000_000_000));
        assert_eq!(families[1].metrics[0].gauge, Some(Value { value: Some(-3.0) }));
        let [first, second] = &families[2].metrics[..] else { panic!("{:?}", families[2]) };
        assert_eq!((&first.labels[..], &second.labels[..]), (&[pair("k", "v")][..], &[pair("k", "w")][..]));
        let bucket = Bucket { count: Some(1), end: Some(0.5) };
        let histogram = Histogram { count: Some(3), sum: Some(4.25), buckets: vec![bucket] };
        assert_eq!(first.histogram, Some(histogram));
        assert_eq!(second.histogram.as_ref().unwrap().count, Some(0));
    }

    #[tokio::test]
    async fn every_line_of_a_busy_nodes_metrics_arrives() {
        let text = crate::metrics::tests::busy().text();
        let families = read(&text);
        let written = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
        assert_eq!(families.len(), written);
        for family in &families {
            let name = family.name.as_deref().unwrap();
            let values = family.metrics.iter().map(|metric| {
                let plain = metric.gauge.as_ref().or(metric.counter.as_ref());
                plain.map(|value| value.value).or(metric.histogram.as_ref().map(|histogram| histogram.sum))
            });
            assert!(values.clone().count() > 0 && values.flatten().all(|value| value.is_some()), "{name}");
        }
    }
}
