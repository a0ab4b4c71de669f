// Raw input in, answer out, around a runtime's own call: what declared.json says, as plain C++17 without dependencies.
//
//     #include "loader.hpp"
//
//     deploy::check_files("deploy-out/tflite");                          // is this the declared model?
//     deploy::Tensor x = deploy::prepare(deploy::inputs()[0], pixels, {28, 28});
//     // ... x.values (float32), deploy::codes<int8_t>(...), x.shape: hand them to the runtime, and run it ...
//     deploy::Answer a = deploy::decide(deploy::outputs()[0], scores, 10);
//     std::puts(a.label.c_str());
//
// Written for one artifact: the tables at the end are its own. Whatever does not fit throws std::runtime_error with one
// line.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace deploy {

struct Input {
    std::string name;
    std::string before, after;    // axes of a raw sample and of the network's, such as "HWC" and "CHW"; "" for the same
    std::vector<long> resize;     // rows and columns; one number: the shorter side; empty: none
    std::vector<long> crop;       // rows and columns of the middle; empty: none
    bool scaled;                  // are the next three used at all?
    double divide_by;
    std::vector<double> mean, deviation;  // one for all, or one a channel
    long axis, lowest, highest;   // the axis of varying length (of a sample) and its bounds; axis -1: none varies
    bool whole;                   // does the network take integers, such as token ids?
    std::vector<long> shape;      // of a sample, in the network's layout; -1: free
    std::vector<long> order;      // the deployed model's axes among the network's, the batch first; empty: the same
    float scale;                  // of its codes; 0: it takes numbers
    long zero_point;
};

struct Output {
    std::string name;
    std::vector<long> order;
    float scale;
    long zero_point;
};

struct File {
    std::string name, sha256;
};

const std::vector<Input>& inputs();
const std::vector<Output>& outputs();
const std::vector<File>& files();
const std::vector<std::string>& labels();
const std::string& activation();

struct Tensor {
    std::vector<double> values;
    std::vector<long> shape;
};

struct Answer {
    long index;
    std::string label;
    double probability;
};

inline std::string words(const std::vector<long>& shape) {
    std::ostringstream text;
    text << '[';
    for (std::size_t i = 0; i < shape.size(); ++i) text << (i ? ", " : "") << shape[i];
    text << ']';
    return text.str();
}

inline long count(const std::vector<long>& shape) {
    long n = 1;
    for (long size : shape) n *= size;
    return n;
}

inline std::vector<long> strides(const std::vector<long>& shape) {
    std::vector<long> steps(shape.size(), 1);
    for (std::size_t i = shape.size(); i-- > 1;) steps[i - 1] = steps[i] * shape[i];
    return steps;
}

// The same numbers with their axes in another order: axis i of the result is axis order[i] of the tensor.
inline Tensor transposed(const Tensor& from, const std::vector<long>& order) {
    Tensor to;
    for (long axis : order) to.shape.push_back(from.shape[axis]);
    to.values.resize(from.values.size());
    const std::vector<long> source = strides(from.shape), target = strides(to.shape);
    for (long i = 0; i < static_cast<long>(to.values.size()); ++i) {
        long rest = i, at = 0;
        for (std::size_t axis = 0; axis < order.size(); ++axis) {
            at += rest / target[axis] * source[order[axis]];
            rest %= target[axis];
        }
        to.values[i] = from.values[at];
    }
    return to;
}

// One axis interpolated linearly to a number of positions, half-pixel centres.
inline Tensor resized(const Tensor& from, long axis, long wanted) {
    Tensor to;
    to.shape = from.shape;
    to.shape[axis] = wanted;
    to.values.resize(count(to.shape));
    const long there = from.shape[axis], inner = strides(from.shape)[axis];
    const long outer = static_cast<long>(from.values.size()) / (there * inner);
    for (long k = 0; k < wanted; ++k) {
        const double ratio = static_cast<double>(there) / static_cast<double>(wanted);
        const double at = std::min(std::max((k + 0.5) * ratio - 0.5, 0.0), static_cast<double>(there - 1));
        const long low = static_cast<long>(at), high = std::min(low + 1, there - 1);
        const double part = at - static_cast<double>(low);
        for (long o = 0; o < outer; ++o)
            for (long i = 0; i < inner; ++i)
                to.values[(o * wanted + k) * inner + i] =
                    from.values[(o * there + low) * inner + i] * (1 - part) +
                    from.values[(o * there + high) * inner + i] * part;
    }
    return to;
}

// The middle of one axis.
inline Tensor cropped(const Tensor& from, long axis, long wanted) {
    const long there = from.shape[axis], start = (there - wanted) / 2, inner = strides(from.shape)[axis];
    if (there < wanted)
        throw std::runtime_error("an image of shape " + words(from.shape) + " is too small for its crop");
    Tensor to;
    to.shape = from.shape;
    to.shape[axis] = wanted;
    const long outer = static_cast<long>(from.values.size()) / (there * inner);
    for (long o = 0; o < outer; ++o) {
        const auto begin = from.values.begin() + (o * there + start) * inner;
        to.values.insert(to.values.end(), begin, begin + wanted * inner);
    }
    return to;
}

// Zeros behind, up to the length that a model of fixed shapes takes.
inline Tensor padded(const Tensor& from, long axis, long wanted) {
    const long there = from.shape[axis], inner = strides(from.shape)[axis];
    const long outer = static_cast<long>(from.values.size()) / (there * inner);
    Tensor to;
    to.shape = from.shape;
    to.shape[axis] = wanted;
    to.values.assign(count(to.shape), 0.0);
    for (long o = 0; o < outer; ++o)
        std::copy_n(from.values.begin() + o * there * inner, there * inner, to.values.begin() + o * wanted * inner);
    return to;
}

inline void check_shape(const std::string& name, const std::vector<long>& declared, const std::vector<long>& found) {
    bool fits = declared.size() == found.size();
    for (std::size_t i = 0; fits && i < found.size(); ++i) fits = declared[i] < 0 || declared[i] == found[i];
    if (!fits)
        throw std::runtime_error("input '" + name + "' has shape " + words(found) + ", declared is " + words(declared));
}

// One raw sample as the deployed model takes it: a batch of one, in its own layout.
template <class Raw>
Tensor prepare(const Input& rules, const Raw* raw, const std::vector<long>& shape) {
    Tensor sample;
    sample.shape = shape;
    sample.values.assign(raw, raw + count(shape));
    if (!rules.before.empty() && shape.size() != rules.before.size())
        throw std::runtime_error(
            "input '" + rules.name + "': raw has shape " + words(shape) + ", expected the axes " + rules.before);
    const long rows = static_cast<long>(rules.before.find('H')), columns = static_cast<long>(rules.before.find('W'));
    if (!rules.resize.empty()) {
        long height = rules.resize[0], width = rules.resize.back();
        if (rules.resize.size() == 1) {
            const long shorter = std::min(shape[rows], shape[columns]);
            height = shape[rows] * rules.resize[0] / shorter;
            width = shape[columns] * rules.resize[0] / shorter;
        }
        sample = resized(resized(sample, rows, height), columns, width);
    }
    if (!rules.crop.empty()) sample = cropped(cropped(sample, rows, rules.crop[0]), columns, rules.crop[1]);
    if (rules.scaled) {
        const std::size_t found = rules.before.find('C');
        const long channel = found == std::string::npos ? 0 : static_cast<long>(found);
        const long inner = strides(sample.shape)[channel], channels = sample.shape[channel];
        for (const auto* values : {&rules.mean, &rules.deviation})
            if (values->size() != 1 && static_cast<long>(values->size()) != channels)
                throw std::runtime_error("input '" + rules.name + "': raw has " + std::to_string(channels) +
                                         " channels, declared are " + std::to_string(values->size()));
        for (std::size_t i = 0; i < sample.values.size(); ++i) {
            const std::size_t c = static_cast<std::size_t>(static_cast<long>(i) / inner % channels);
            const double mean = rules.mean[rules.mean.size() == 1 ? 0 : c];
            const double deviation = rules.deviation[rules.deviation.size() == 1 ? 0 : c];
            sample.values[i] = (sample.values[i] / rules.divide_by - mean) / deviation;
        }
    }
    if (!rules.before.empty()) {
        std::vector<long> order, whole;
        for (char axis : rules.after)
            if (rules.before.find(axis) != std::string::npos) order.push_back(static_cast<long>(rules.before.find(axis)));
        sample = transposed(sample, order);
        std::size_t next = 0;
        for (char axis : rules.after)
            whole.push_back(rules.before.find(axis) == std::string::npos ? 1 : sample.shape[next++]);
        sample.shape = whole;
    }
    if (rules.axis >= 0) {
        const long length = sample.shape[rules.axis], fixed = rules.shape[rules.axis];
        if (length < rules.lowest || length > rules.highest)
            throw std::runtime_error("input '" + rules.name + "' has " + std::to_string(length) + " steps, expected " +
                                     std::to_string(rules.lowest) + " to " + std::to_string(rules.highest));
        if (fixed > 0) sample = padded(sample, rules.axis, fixed);
    }
    check_shape(rules.name, rules.shape, sample.shape);
    for (double& value : sample.values) value = rules.whole ? std::trunc(value) : static_cast<float>(value);
    sample.shape.insert(sample.shape.begin(), 1);
    return rules.order.empty() ? sample : transposed(sample, rules.order);
}

// A prepared input as the numbers that the model takes: float, int64_t for token ids, int8_t for its codes.
template <class Number>
std::vector<Number> codes(const Input& rules, const Tensor& prepared) {
    std::vector<Number> found;
    found.reserve(prepared.values.size());
    for (double value : prepared.values) {
        if (rules.scale > 0) {
            const double code = std::nearbyint(static_cast<float>(value) / rules.scale) + rules.zero_point;
            const double low = std::numeric_limits<Number>::lowest(), high = std::numeric_limits<Number>::max();
            value = std::min(std::max(code, low), high);
        }
        found.push_back(static_cast<Number>(value));
    }
    return found;
}

// What an output of the model stands for: its codes as numbers, in the network's layout.
template <class Number>
Tensor numbers(const Output& rules, const Number* values, const std::vector<long>& shape) {
    Tensor found;
    found.shape = shape;
    for (long i = 0; i < count(shape); ++i)
        found.values.push_back(rules.scale > 0 ? static_cast<float>(static_cast<long>(values[i]) - rules.zero_point) *
                                                     rules.scale
                                               : static_cast<float>(values[i]));
    if (rules.order.empty()) return found;
    std::vector<long> back(rules.order.size());
    for (std::size_t i = 0; i < back.size(); ++i) back[static_cast<std::size_t>(rules.order[i])] = static_cast<long>(i);
    return transposed(found, back);
}

// The most likely class of one sample's scores, with its probability where the declared activation makes one.
template <class Number>
Answer decide(const Output& rules, const Number* values, long classes) {
    std::vector<double> scores = numbers(Output{rules.name, {}, rules.scale, rules.zero_point}, values, {classes}).values;
    if (activation() == "softmax") {
        const double top = *std::max_element(scores.begin(), scores.end());
        double sum = 0;
        for (double& score : scores) sum += score = std::exp(score - top);
        for (double& score : scores) score /= sum;
    } else if (activation() == "sigmoid") {
        for (double& score : scores) score = 1 / (1 + std::exp(-score));
    } else {
        throw std::runtime_error("this model tells no classes apart: read its outputs with numbers()");
    }
    const long best = std::max_element(scores.begin(), scores.end()) - scores.begin();
    const std::string label = labels().empty() ? std::to_string(best) : labels().at(static_cast<std::size_t>(best));
    return {best, label, scores[static_cast<std::size_t>(best)]};
}

// SHA-256 (FIPS 180-4) of some bytes, in hexadecimal.
inline std::string sha256(std::string bytes) {
    std::array<std::uint32_t, 64> k{};
    std::array<std::uint32_t, 8> h{};
    const auto fraction = [](long double root) {  // its first 32 bits behind the point
        return static_cast<std::uint32_t>((root - std::floor(root)) * 4294967296.0L);
    };
    int found = 0;
    for (int n = 2; found < 64; ++n) {  // the first 64 primes
        bool prime = true;
        for (int d = 2; d * d <= n; ++d) prime = prime && n % d != 0;
        if (!prime) continue;
        if (found < 8) h[static_cast<std::size_t>(found)] = fraction(std::sqrt(static_cast<long double>(n)));
        k[static_cast<std::size_t>(found++)] = fraction(std::cbrt(static_cast<long double>(n)));
    }
    const std::uint64_t bits = 8 * static_cast<std::uint64_t>(bytes.size());
    bytes.push_back('\x80');
    while (bytes.size() % 64 != 56) bytes.push_back('\0');
    for (int shift = 56; shift >= 0; shift -= 8) bytes.push_back(static_cast<char>(bits >> shift & 0xff));
    const auto turned = [](std::uint32_t x, int by) { return x >> by | x << (32 - by); };
    for (std::size_t block = 0; block < bytes.size(); block += 64) {
        std::array<std::uint32_t, 64> w{};
        for (std::size_t i = 0; i < 64; ++i)
            w[i / 4] |= i < 64 ? static_cast<std::uint32_t>(static_cast<unsigned char>(bytes[block + i]))
                                     << (24 - 8 * (i % 4))
                               : 0;
        for (std::size_t i = 16; i < 64; ++i) {
            const std::uint32_t a = turned(w[i - 15], 7) ^ turned(w[i - 15], 18) ^ w[i - 15] >> 3;
            const std::uint32_t b = turned(w[i - 2], 17) ^ turned(w[i - 2], 19) ^ w[i - 2] >> 10;
            w[i] = w[i - 16] + a + w[i - 7] + b;
        }
        std::array<std::uint32_t, 8> s = h;
        for (std::size_t i = 0; i < 64; ++i) {
            const std::uint32_t e = turned(s[4], 6) ^ turned(s[4], 11) ^ turned(s[4], 25);
            const std::uint32_t one = s[7] + e + ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
            const std::uint32_t a = turned(s[0], 2) ^ turned(s[0], 13) ^ turned(s[0], 22);
            const std::uint32_t two = a + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
            s = {one + two, s[0], s[1], s[2], s[3] + one, s[4], s[5], s[6]};
        }
        for (std::size_t i = 0; i < 8; ++i) h[i] += s[i];
    }
    std::string text;
    for (std::uint32_t word : h)
        for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15];
    return text;
}

// Throws where a file of the model in that folder is not the declared one.
inline void check_files(const std::string& folder) {
    for (const File& file : files()) {
        const std::string path = folder + "/" + file.name;
        std::ifstream stream(path, std::ios::binary);
        if (!stream) throw std::runtime_error("no file " + path);
        const std::string found = sha256({std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()});
        if (found != file.sha256)
            throw std::runtime_error(path + " has SHA-256 " + found.substr(0, 16) + "..., declared is " +
                                     file.sha256.substr(0, 16) + "...");
    }
}

@TABLES@
}  // namespace deploy
