use std::io::Cursor;
use std::sync::Arc;

use tandem_core::rng::Rng;
use tandem_onnx::value::Data;

use super::*;

fn tensor(dtype: DType, dims: &[u64], seed: u64) -> TensorValue {
    let mut rng = Rng::new(seed);
    let elements: u64 = dims.iter().product();
    let mut bytes: Vec<u8> = (0..dtype.bytes_of(elements)).map(|_| rng.u64() as u8).collect();
    if dtype == DType::Bool {
        bytes.iter_mut().for_each(|b| *b &= 1);
    }
    let used = elements * dtype.bits() % 8;
    if let Some(last) = bytes.last_mut().filter(|_| used > 0) {
        *last &= (1 << used) - 1;
    }
    TensorValue::new(dtype, dims.to_vec(), bytes)
}

fn strings(dims: &[u64], values: &[&[u8]]) -> TensorValue {
    let data = Data::Strings(Arc::new(values.iter().map(|s| s.to_vec()).collect()));
    TensorValue { dtype: DType::String, dims: dims.to_vec(), data }
}

fn all_types() -> Vec<(String, Value)> {
    let numbers = DType::ALL.iter().filter(|d| **d != DType::String);
    let mut values: Vec<(String, Value)> =
        numbers.map(|d| (format!("a/{d}:0"), Value::Tensor(tensor(*d, &[3, 1, 5], 7)))).collect();
    values.push(("text".into(), Value::Tensor(strings(&[2, 2], &[b"", b"na\xc3\xafve", b"b", b"\xe6\x97\xa5"]))));
    values.push(("raw".into(), Value::Tensor(strings(&[2], &[b"\xff\x00x", b"y"]))));
    values.push(("scalar".into(), Value::Tensor(tensor(DType::F32, &[], 1))));
    values.push(("empty".into(), Value::Tensor(tensor(DType::I64, &[0, 4], 1))));
    values.push(("no strings".into(), Value::Tensor(strings(&[0], &[]))));
    values
}

fn archive(values: &[(String, Value)]) -> Vec<u8> {
    let mut out = Cursor::new(vec![]);
    write_archive(&mut out, Path::new("test"), values).unwrap();
    out.into_inner()
}

fn parse(bytes: &[u8]) -> Result<Vec<(String, TensorValue)>, NpzError> {
    read_archive(Cursor::new(bytes), Path::new("test"))
}

fn npy_bytes(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn npy_of(descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Result<TensorValue, NpyError> {
    let fortran = if fortran { "True" } else { "False" };
    let header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
    npy::read(&npy_bytes(&header, data)[..], None)
}

#[test]
fn every_type_comes_back() {
    let values = all_types();
    let back = parse(&archive(&values)).unwrap();
    assert_eq!(back.len(), values.len());
    for ((name, value), (found_name, found)) in values.iter().zip(&back) {
        assert_eq!((name, value), (found_name, &Value::Tensor(found.clone())));
    }
}

#[test]
fn files_are_written_whole_and_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    write(&path, &all_types()).unwrap();
    assert_eq!(read(&path).unwrap().len(), all_types().len());
    let single = folder.path().join("x.npy");
    let array = tensor(DType::F16, &[4, 2], 3);
    write_npy(&single, &array).unwrap();
    assert_eq!(read(&single).unwrap(), [(String::new(), array)]);
    assert_eq!(std::fs::read(&single).unwrap().len(), 128 + 16, "data begins at a multiple of 64");

    // A failure leaves the old file as it was, and nothing beside it.
    let bad = [("s".to_owned(), Value::Tensor(strings(&[1], &[b"ends with\0"])))];
    let error = write(&path, &bad).unwrap_err().to_string();
    assert!(error.contains("array \"s\": data: expected strings that do not end with a zero"), "{error}");
    assert_eq!(read(&path).unwrap().len(), all_types().len());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    assert!(write(&folder.path().join("no/such/folder.npz"), &[]).is_err());
    assert!(matches!(read(&folder.path().join("none.npz")), Err(NpzError::File { .. })));
    std::fs::write(&single, "hello").unwrap();
    assert!(read(&single).unwrap_err().to_string().contains("expected an .npz or .npy file"));
}

#[test]
fn containers_become_arrays() {
    let f = |seed| Value::Tensor(tensor(DType::F32, &[2], seed));
    let key = |k: &[u8]| Value::Tensor(strings(&[], &[k]));
    let values = [
        ("s".to_owned(), Value::Sequence(vec![f(1), Value::Sequence(vec![f(2)])])),
        ("none".to_owned(), Value::Optional(None)),
        ("some".to_owned(), Value::Optional(Some(Box::new(f(3))))),
        ("m".to_owned(), Value::Map(vec![(key(b"k"), f(4)), (key(b"l"), f(5))])),
        ("some".to_owned(), f(6)),
    ];
    let back = parse(&archive(&values)).unwrap();
    let names: Vec<&str> = back.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["s[0]", "s[1][0]", "some", "m.keys", "m.values"]);
    assert_eq!(back[3].1, strings(&[2], &[b"k", b"l"]));
    assert_eq!(back[4].1.dims, [2, 2]);
    let uneven = Value::Map(vec![(key(b"k"), f(1)), (key(b"l"), Value::Sequence(vec![]))]);
    let error = write_archive(Cursor::new(vec![]), Path::new("f"), &[("m".into(), uneven)]).unwrap_err();
    assert!(error.to_string().contains("map \"m\": its values"), "{error}");
}

#[test]
fn orders_of_bytes_and_axes_are_undone() {
    let fortran = npy_of("|u1", true, "(2, 3)", &[0, 3, 1, 4, 2, 5]).unwrap();
    assert_eq!(fortran.bytes(), [0, 1, 2, 3, 4, 5]);
    let cube: Vec<u8> = (0..24).map(|i| (i % 2) * 12 + (i / 2 % 3) * 4 + i / 6).collect();
    let cube = npy_of("|i1", true, "(2, 3, 4)", &cube).unwrap();
    assert_eq!(cube.bytes(), (0..24).collect::<Vec<u8>>());
    let big = npy_of(">i4", false, "(2,)", &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xfe]).unwrap();
    assert_eq!(big.bytes(), [1, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff]);
    let complex = npy_of(">c8", false, "()", &[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    assert_eq!(complex.bytes(), [4, 3, 2, 1, 8, 7, 6, 5]);
    let text = npy_of(">U2", false, "(1,)", &[0, 0, 0, b'h', 0, 0, 0, 0]).unwrap();
    assert_eq!(text, strings(&[1], &[b"h"]));
    assert_eq!(npy_of("|S3", false, "(2,)", b"ab\0c\0\0").unwrap(), strings(&[2], &[b"ab", b"c"]));
    assert_eq!(npy_of("?", false, "(2L, )", &[0, 7]).unwrap().bytes(), [0, 1]);
    let long = npy_bytes("{'shape': (1,), \"descr\": \"<u2\", 'fortran_order': False}", &[1, 2]);
    assert_eq!(npy::read(&long[..], None).unwrap().dims, [1], "any order of fields, either quote");
}

#[test]
fn wrong_arrays_are_refused_with_the_field() {
    let error = |descr: &str, shape: &str, data: &[u8]| npy_of(descr, false, shape, data).unwrap_err().to_string();
    assert_eq!(error("<f4", "(2,)", &[0; 7]), "data: expected 8 bytes, found 7 bytes");
    assert_eq!(error("<f4", "(2,)", &[0; 9]), "data: expected 8 bytes, found more than that");
    assert!(error("|O", "(2,)", &[]).contains("descr: expected an element type of fixed size"));
    assert!(error("<f16", "(2,)", &[]).starts_with("descr: expected an element type that models take"));
    assert!(error("<M8[ns]", "(2,)", &[]).starts_with("descr:"));
    assert!(error("|V2", "(2,)", &[]).contains("NAME@bf16"));
    assert!(error("é", "(2,)", &[]).starts_with("descr:"));
    assert!(error("<U99999999999", "(2,)", &[]).starts_with("descr:"));
    assert!(error("<f4", "(18446744073709551615, 2)", &[]).starts_with("shape: expected an array of at most"));
    assert!(error("<f4", "(18446744073709551616,)", &[]).starts_with("shape: expected a size"));
    assert!(error("<f4", "(0, 18446744073709551615, 2)", &[]).starts_with("shape:"), "sizes beside a zero too");
    assert!(error("|S0", "(1000000000,)", &[]).starts_with("shape: expected at most"));
    assert!(error("<f4", "(-1,)", &[]).starts_with("shape: expected a size"));
    assert!(error("<f4", "(1 1)", &[]).starts_with("shape:"));
    assert!(error("<f4", &format!("({})", "1,".repeat(65)), &[]).starts_with("shape: expected at most 64 axes"));
    assert!(error("<U1", "(1,)", &[0, 0xd8, 0, 0]).contains("unicode"), "half of a surrogate pair");

    let header = |text: &str| npy::read(&npy_bytes(text, &[])[..], None).unwrap_err().to_string();
    assert!(header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': ()}").contains("a structure"));
    assert_eq!(header("{'descr': '<f4', 'fortran_order': False}"), "header: expected shape, found none");
    assert!(header("{'descr': '<f4', 'fortran_order': maybe").starts_with("fortran_order"));
    assert!(header("{'other': '<f4'").starts_with("header: expected descr, fortran_order and shape"));
    assert!(header("{'descr': '<f4").starts_with("descr: expected a quoted text"));
    assert!(header("[]").starts_with("header: expected '{'"));
    let error = |bytes: &[u8]| npy::read(bytes, None).unwrap_err().to_string();
    assert!(error(b"\x93NUMPY\x02\x00\xff\xff\xff\xff").starts_with("header length: expected at most 10000"));
    assert!(error(b"\x93NUMPY\x09\x00").starts_with("version"));
    assert!(error(b"\x93NUM").starts_with("magic: expected 8 bytes"));
    assert!(error(b"PICKLED!").starts_with("magic"));
}

#[test]
fn raw_types_are_checked() {
    let zip_of = |member: &str, array: &TensorValue| {
        let mut zip = ZipWriter::new(Cursor::new(vec![]));
        zip.start_file(member, SimpleFileOptions::default()).unwrap();
        npy::write(&mut zip, array).unwrap();
        zip.finish().unwrap().into_inner()
    };
    let small = TensorValue::new(DType::U8, vec![2], vec![3, 16]);
    let error = parse(&zip_of("x@u4.npy", &small)).unwrap_err().to_string();
    assert_eq!(error, "test, array \"x@u4\": data: expected values of 4 bits, found larger ones");
    let error = parse(&zip_of("x@bf16.npy", &small)).unwrap_err().to_string();
    assert!(error.contains("descr: expected u16, which stands for bf16"), "{error}");
    let found = parse(&zip_of("x@f8e5m2.npy", &small)).unwrap();
    assert_eq!((found[0].0.as_str(), found[0].1.dtype), ("x", DType::F8E5M2));
    // A suffix of a type that numpy has is part of the name.
    assert_eq!(parse(&zip_of("x@u8.npy", &small)).unwrap()[0].0, "x@u8");
    assert!(parse(&zip_of("x.txt", &small)).unwrap_err().to_string().contains("expected members NAME.npy"));
}

#[test]
fn deflated_members_are_read() {
    let array = tensor(DType::F32, &[100, 100], 5);
    let mut zip = ZipWriter::new(Cursor::new(vec![]));
    zip.start_file("x.npy", SimpleFileOptions::default().compression_method(CompressionMethod::Deflated)).unwrap();
    npy::write(&mut zip, &array).unwrap();
    assert_eq!(parse(&zip.finish().unwrap().into_inner()).unwrap(), [("x".to_owned(), array)]);
}

/// Damaged files are errors or other arrays, never panics, and never take more memory than there are bytes.
#[test]
fn mutations_never_panic() {
    let base = archive(&all_types());
    let mut single = vec![];
    npy::write(&mut single, &tensor(DType::F32, &[2, 3], 1)).unwrap();
    let mut rng = Rng::new(11);
    let mut refused = 0;
    for round in 0..4000u64 {
        let whole = if round % 2 == 0 { &base } else { &single };
        let mut bytes = whole.clone();
        for _ in 0..1 + rng.below(4) {
            let at = rng.below(bytes.len() as u64) as usize;
            match rng.below(5) {
                0 => bytes.truncate(at.max(1)),
                1 => bytes[at] = [0, 0xff, b'(', b'9'][rng.below(4) as usize],
                2 => bytes.insert(at, rng.u64() as u8),
                3 => drop(bytes.remove(at.min(bytes.len() - 1).max(1) - 1)),
                _ => bytes[at] ^= 1 << rng.below(8),
            }
            if bytes.is_empty() {
                bytes.push(0);
            }
        }
        let result =
            if round % 2 == 0 { parse(&bytes).map(drop).is_err() } else { npy::read(&bytes[..], None).is_err() };
        refused += u64::from(result);
    }
    assert!(refused > 2000, "{refused} of 4000");
}
