//! What a megabyte of trace costs: masking alone, and the whole way into the buffer.
//!
//! `cargo bench --bench trace`. The budget of the whole manager is 5 ms of processor time a megabyte; this
//! part has 2.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use flotilla::trace::{CompiledMasks, Masker, Masks, Sink, Stream, TraceSettings};

/// Output as a build prints it, a megabyte of it.
fn plain_text() -> Vec<u8> {
    let line = "   Compiling some-package v1.2.3 (git+https://git.example.com/some-package)\n";
    line.as_bytes().iter().copied().cycle().take(1 << 20).collect()
}

/// Five values such as a job has.
fn masks() -> Masks {
    let mut masks = Masks::with_default_prefixes(true);
    for value in [
        "glcbt-64_s3cr3t-t0ken-of-a-job",
        "hunter2hunter2",
        "AKIAIOSFODNN7EXAMPLE",
        "correct horse battery",
        "p4ssw0rd!",
    ] {
        masks.add_phrase(value);
    }
    masks
}

fn masker(criterion: &mut Criterion) {
    let text = plain_text();
    let mut group = criterion.benchmark_group("masker");
    group.throughput(Throughput::Bytes(text.len() as u64));
    for (name, masks) in [("no phrases", Masks::with_default_prefixes(true)), ("five phrases", masks())] {
        let compiled = CompiledMasks::new(&masks);
        group.bench_function(name, |bencher| {
            let mut masker = Masker::new(compiled.clone());
            let mut out = Vec::with_capacity(2 * text.len());
            bencher.iter(|| {
                out.clear();
                for chunk in text.chunks(8 * 1024) {
                    masker.feed(black_box(chunk), &mut out);
                }
                out.len()
            });
        });
    }
    group.finish();
}

fn sink(criterion: &mut Criterion) {
    let text = plain_text();
    let mut group = criterion.benchmark_group("sink");
    group.throughput(Throughput::Bytes(text.len() as u64));
    for (name, timestamps) in [("raw", false), ("timestamps", true)] {
        group.bench_function(name, |bencher| {
            let new_sink = || {
                let folder = std::env::temp_dir();
                Sink::new(TraceSettings { folder, limit: u64::MAX, timestamps, sections: true, masks: masks() })
            };
            bencher.iter_batched_ref(
                new_sink,
                |sink| {
                    for chunk in text.chunks(8 * 1024) {
                        sink.write(Stream::Stdout, black_box(chunk));
                    }
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, masker, sink);
criterion_main!(benches);
