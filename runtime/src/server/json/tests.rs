use tandem_core::rng::Rng;

use super::*;

fn bytes(text: &str, dtype: DType, dims: &[u64]) -> Result<Vec<u8>, OipError> {
    // As in a request: what reaches this module is valid JSON.
    let raw: &serde_json::value::RawValue = serde_json::from_str(text).expect("valid JSON");
    match read("x", raw.get(), dtype, dims, dims.iter().product())? {
        Data::Bytes(bytes) => Ok(bytes.to_vec()),
        Data::Strings(_) => panic!("expected bytes"),
    }
}

fn message(text: &str, dtype: DType, dims: &[u64]) -> String {
    bytes(text, dtype, dims).expect_err(text).to_string()
}

fn texts(text: &str, dims: &[u64]) -> Result<Vec<String>, OipError> {
    match read("x", text, DType::String, dims, dims.iter().product())? {
        Data::Strings(s) => Ok(s.iter().map(|s| String::from_utf8(s.clone()).expect("UTF-8")).collect()),
        Data::Bytes(_) => panic!("expected strings"),
    }
}

#[test]
fn flat_and_nested_data_are_the_same_tensor() {
    let expected: Vec<u8> = (1..=6i16).flat_map(i16::to_le_bytes).collect();
    for text in ["[1,2,3,4,5,6]", "[[1,2,3],[4,5,6]]", " [ [1 ,2,\t3] ,\r\n[4,5,6 ] ] "] {
        assert_eq!(bytes(text, DType::I16, &[2, 3]), Ok(expected.clone()), "{text}");
    }
    assert_eq!(bytes("[[[1],[2]],[[3],[4]],[[5],[6]]]", DType::I16, &[3, 2, 1]), Ok(expected));
}

#[test]
fn tensors_without_axes_or_elements_have_data_too() {
    assert_eq!(bytes("[7]", DType::U8, &[]), Ok(vec![7]));
    assert_eq!(bytes("[]", DType::U8, &[0]), Ok(vec![]));
    assert_eq!(bytes("[[],[]]", DType::U8, &[2, 0]), Ok(vec![]));
    assert_eq!(bytes("[]", DType::U8, &[2, 0]), Ok(vec![]));
}

#[test]
fn every_type_reads_its_extremes_and_refuses_what_is_beyond() {
    let cases: &[(DType, &str, &str, &str)] = &[
        (DType::U8, "0", "255", "256"),
        (DType::U16, "0", "65535", "65536"),
        (DType::U32, "0", "4294967295", "4294967296"),
        (DType::U64, "0", "18446744073709551615", "18446744073709551616"),
        (DType::I8, "-128", "127", "-129"),
        (DType::I16, "-32768", "32767", "32768"),
        (DType::I32, "-2147483648", "2147483647", "-2147483649"),
        (DType::I64, "-9223372036854775808", "9223372036854775807", "9223372036854775808"),
        (DType::F32, "-3.4028235e38", "3.4028235e+38", "3.5e38"),
        (DType::F64, "-1.7976931348623157E308", "1.7976931348623157e308", "1e309"),
    ];
    for (dtype, low, high, beyond) in cases {
        let read = bytes(&format!("[{low},{high}]"), *dtype, &[2]).expect("both extremes");
        assert_eq!(read.len() as u64, 2 * dtype.bits() / 8);
        let mut out = vec![];
        let tensor = TensorValue::new(*dtype, vec![2], read.clone());
        write(&mut out, "y", &tensor).expect("both have a form");
        let again = bytes(std::str::from_utf8(&out).expect("UTF-8"), *dtype, &[2]);
        assert_eq!(again, Ok(read), "{dtype}: written and read again");
        let text = message(&format!("[{low},{beyond}]"), *dtype, &[2]);
        assert!(text.contains("element 1: expected") && text.contains(beyond), "{text}");
    }
}

#[test]
fn what_is_no_number_of_the_type_is_refused_with_its_place() {
    let cases = [
        (
            DType::I32,
            "[1,2.0]",
            "input \"x\": element 1: expected an integer from -2147483648 to 2147483647, found 2.0",
        ),
        (DType::I32, "[1,1e2]", "found 1e2"),
        (DType::U8, "[1,-1]", "expected an integer from 0 to 255, found -1"),
        (DType::F32, "[1,\"2\"]", "element 1: expected a number within the range of FP32, found \"2\""),
        (DType::F32, "[1,true]", "found true"),
        (DType::F32, "[null,1]", "element 0: expected a number within the range of FP32, found null"),
        (DType::Bool, "[true,1]", "element 1: expected true or false, found 1"),
        (DType::F64, "[1,{}]", "expected numbers, booleans or strings in arrays, found an object"),
        (DType::F16, "[1,2]", "\"x\": FP16 has no form in JSON, expected it as binary data"),
        (DType::F32, "{\"a\":[1]}", "expected an array, found an object"),
        (DType::F32, "3", "expected an array, found a number"),
        (DType::F32, "\"AAAA\"", "expected an array, found a string"),
        (DType::F32, "null", "expected an array, found null"),
    ];
    for (dtype, text, expected) in cases {
        let found = message(text, dtype, &[2]);
        assert!(found.contains(expected), "{text}: {found}");
    }
}

#[test]
fn other_shapes_than_the_input_are_refused() {
    let cases = [
        ("[1,2,3]", "expected 4 elements for shape [2,2], found 3"),
        ("[1,2,3,4,5]", "expected 4 elements for shape [2,2], found more"),
        ("[]", "expected 4 elements for shape [2,2], found 0"),
        ("[[1,2],[3]]", "expected 2 members in each array of axis 1, found 1 before element 3"),
        ("[[1,2,3],[4]]", "expected 2 members in each array of axis 1, found 3 before element 3"),
        ("[[1,2]]", "expected 2 members in each array of axis 0, found 1 before element 2"),
        ("[[1,2],3,4]", "nested as the shape's 2 axes, found others at element 2"),
        ("[1,[2,3],4]", "nested as the shape's 2 axes, found others at element 1"),
        ("[[[1]]]", "nested as the shape's 2 axes, found others at element 0"),
        ("[[],[1,2],[3,4]]", "expected 2 members in each array of axis 0, found 3"),
    ];
    for (text, expected) in cases {
        let found = message(text, DType::F32, &[2, 2]);
        assert!(found.contains(expected), "{text}: {found}");
    }
}

#[test]
fn deep_nesting_is_refused_where_it_begins() {
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(message(&deep, DType::F32, &[1]).contains("nested as the shape's 1 axes"));
}

#[test]
fn strings_keep_their_escapes_commas_and_brackets() {
    let text = r#"[["a,b]","q\"\\","é\u00e9\n"],["","[","\ud83d\ude00"]]"#;
    let expected = ["a,b]", "q\"\\", "éé\n", "", "[", "😀"];
    assert_eq!(texts(text, &[2, 3]).expect("six strings"), expected);
    assert!(texts("[1]", &[1]).expect_err("a number").to_string().contains("expected a string, found 1"));
    assert!(texts(r#"["\ud800"]"#, &[1]).expect_err("half a pair").to_string().contains("expected a string"));
}

#[test]
fn numbers_are_written_in_the_shortest_form_and_read_back_exactly() {
    let mut rng = Rng::new(7);
    let singles: Vec<f32> = std::iter::repeat_with(|| f32::from_bits(rng.u64() as u32))
        .filter(|f| f.is_finite())
        .take(20_000)
        .chain([0.0, -0.0, 0.1, 1e-45, f32::MIN_POSITIVE, 16_777_217.0, 1.0 / 3.0])
        .collect();
    let stored: Vec<u8> = singles.iter().flat_map(|f| f.to_le_bytes()).collect();
    let mut out = vec![];
    let dims = vec![singles.len() as u64];
    write(&mut out, "y", &TensorValue::new(DType::F32, dims.clone(), stored.clone())).expect("finite numbers");
    assert_eq!(bytes(std::str::from_utf8(&out).expect("UTF-8"), DType::F32, &dims), Ok(stored));
    // Rounded to double precision first, it would end half way, and then on the wrong side.
    let text = "[1.000000059604644775390625000000000000000001]";
    assert_eq!(bytes(text, DType::F32, &[1]), Ok((1.0 + f32::EPSILON).to_le_bytes().to_vec()));

    let doubles: Vec<f64> =
        std::iter::repeat_with(|| f64::from_bits(rng.u64())).filter(|f| f.is_finite()).take(20_000).collect();
    let stored: Vec<u8> = doubles.iter().flat_map(|f| f.to_le_bytes()).collect();
    let (mut out, dims) = (vec![], vec![doubles.len() as u64]);
    write(&mut out, "y", &TensorValue::new(DType::F64, dims.clone(), stored.clone())).expect("finite numbers");
    assert_eq!(bytes(std::str::from_utf8(&out).expect("UTF-8"), DType::F64, &dims), Ok(stored));

    let mut out = vec![];
    let some: Vec<u8> = [0.1f32, 1.0, 1e30, -2.5].iter().flat_map(|f| f.to_le_bytes()).collect();
    write(&mut out, "y", &TensorValue::new(DType::F32, vec![4], some)).expect("finite numbers");
    assert_eq!(String::from_utf8(out).expect("UTF-8"), "[0.1,1.0,1e+30,-2.5]");
}

#[test]
fn what_json_cannot_hold_is_not_written() {
    let written = |tensor: &TensorValue| {
        let mut out = vec![];
        write(&mut out, "y", tensor).map(|()| String::from_utf8(out).expect("UTF-8"))
    };
    let floats = |f: [f32; 2]| TensorValue::new(DType::F32, vec![2], f.map(f32::to_le_bytes).concat());
    let text = written(&floats([1.0, f32::NAN])).expect_err("NaN").to_string();
    assert_eq!(text, "output \"y\": element 1 is NaN, which JSON cannot hold: ask for it as binary data");
    assert!(written(&floats([f32::NEG_INFINITY, 1.0])).expect_err("infinite").to_string().contains("is infinite"));
    let half = TensorValue::new(DType::BF16, vec![1], vec![0, 0]);
    assert!(written(&half).expect_err("BF16").to_string().contains("BF16 has no form in JSON"));
    let strings = |all: &[&[u8]]| TensorValue {
        dtype: DType::String,
        dims: vec![all.len() as u64],
        data: Data::Strings(Arc::new(all.iter().map(|s| s.to_vec()).collect())),
    };
    assert_eq!(written(&strings(&[b"a\"b", b""])), Ok(r#"["a\"b",""]"#.to_owned()));
    assert!(written(&strings(&[b"a", b"\xff"])).expect_err("no text").to_string().contains("element 1 is no UTF-8"));
    assert_eq!(written(&TensorValue::new(DType::Bool, vec![2], vec![1, 0])), Ok("[true,false]".to_owned()));
}
