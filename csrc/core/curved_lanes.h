// Tasks under a loss that is not squared, side by side in the lanes of vectors: scores, the best
// bias, and what a gap is made of, as in curved.h.
#pragma once

#include "curved.h"
#include "penalised_lanes.h"

SPARSEDIS_BEGIN

// What the models of all lanes say of their samples.
template <typename Sum>
struct LaneScores {
  Buffer<Sum> S, P;      // (rows, C, lanes): scores without the bias; means there
  Buffer<Sum> top, sum;  // (rows, lanes): what the multinomial's log-sum-exp is made of
  Buffer<Sum> bias;      // (C, lanes)

  void shape(int64_t rows, int64_t C, int64_t lanes) {
    for (Buffer<Sum>* wide : {&S, &P}) wide->reserve(rows * C * lanes);
    for (Buffer<Sum>* one : {&top, &sum}) one->reserve(rows * lanes);
    bias.reserve(C * lanes);
  }
};

template <typename Real>
struct CurvedLanes : PenalisedLanes<Real> {
  using PenalisedLanes<Real>::kLanes;

  Loss loss;
  bool fit_intercept;
  typename TaskLanes<Real>::template Each<const Curved<Real>*> data;
  // Column M of A is the bias's, sqrt(p); inverse is one over it, or 0.
  LaneBuffer<Real> y, R, root, inverse;  // (rows, C) twice, (rows) twice
  LaneBuffer<Real> finite;  // (C): 1, or 0 where an output's bias is at a limit and its mean is y
  Lanes<Real> outputs;      // those that are finite, less one of the multinomial's, but at least 1
  LaneMask<Real> sparse;    // tasks that more than ridge holds at zero
  LaneScores<Real> scores;
  LaneScores<double> exact;
  Buffer<double> pull;    // (all.ld, C, lanes): A'R in double
  double zero[kLanes];    // loss at zero weights, less the least it can be
  double enough[kLanes];  // a decrement of the bias

  template <typename Work, typename F>
  void take(Work* const* works, int64_t number, int64_t outputs, F start) {
    PenalisedLanes<Real>::take(works, number, outputs, start);
    for (int64_t t = 0; t < kLanes; ++t) data[t] = &works[t < number ? t : 0]->curved;
  }
};

// A part of all lanes: as many as a vector of `Sum` has, from lane `from` on.
template <typename Sum, typename Real>
struct LanePart {
  static constexpr int64_t kLanes = CurvedLanes<Real>::kLanes;
  using Vector = Lanes<Sum>;
  const CurvedLanes<Real>& g;
  int64_t from;

  Vector& at(const Buffer<Sum>& rows, int64_t i) const {
    return lanes_at(rows.get() + i * kLanes + from);
  }
  Vector of(const LaneBuffer<Real>& rows, int64_t i) const {
    return load_vector<Sum>(rows.values() + i * kLanes + from);
  }
  Vector weight(int64_t i) const {
    const Vector root = of(g.root, i);
    return root * root;
  }
  LaneMask<Sum> mask(const LaneMask<Real>& all) const {
    LaneMask<Sum> part{};
    for (int64_t t = 0; t < Simd<Sum>::kLanes; ++t) part[t] = all[from + t];
    return part;
  }
};

// Calls body(part) for every part.
template <typename Sum, typename Real, typename F>
inline void for_each_part(const CurvedLanes<Real>& g, F body) {
  for (int64_t from = 0; from < CurvedLanes<Real>::kLanes; from += Simd<Sum>::kLanes)
    body(LanePart<Sum, Real>{g, from});
}

// Which outputs are finite, and the bias that tasks start from. A class that a task does not have
// is far below the others.
template <typename Real>
inline void load_limits(CurvedLanes<Real>& g) {
  constexpr int64_t lanes = CurvedLanes<Real>::kLanes;
  g.finite.reserve(g.C);
  for (int64_t t = 0; t < lanes; ++t) {
    const Curved<Real>& data = *g.data[t];
    int64_t finite = 0;
    for (int64_t c = 0; c < g.C; ++c) {
      const bool free = data.limit.get()[c] == 0;
      g.finite.values()[c * lanes + t] = free, finite += free;
      g.exact.bias.get()[c * lanes + t] =
          free ? data.start.get()[c] : (g.loss == kMultinomial ? -1e30 : 0.0);
    }
    g.outputs[t] = static_cast<Real>(std::max<int64_t>(1, finite - (g.loss == kMultinomial)));
  }
}

template <typename Real>
inline void load_lanes(CurvedLanes<Real>& g) {
  constexpr int64_t lanes = CurvedLanes<Real>::kLanes;
  const int64_t C = g.C;
  LaneSet<Real>& all = g.all;
  g.loss = g.task[0]->loss, g.fit_intercept = g.task[0]->centred;
  all.shape(g.M + 1, C);
  load_penalised(g);
  Lanes<Real>*y = g.y.reserve(g.rows * C), *root = g.root.reserve(g.rows);
  Lanes<Real>* inverse = g.inverse.reserve(g.rows);
  std::fill_n(root, g.rows, Lanes<Real>{});
  for (int64_t c = 0; c < C; ++c)
    g.load_of_samples([&](int64_t t) { return g.data[t]->y.get() + c * g.data[t]->ld; }, y + c, C);
  g.load_of_samples([&](int64_t t) { return g.data[t]->root.get(); }, root, 1);
  g.load_of_samples([&](int64_t t) { return g.data[t]->inverse_root.get(); }, inverse, 1);
  gram_lanes(g.A.get(), g.n, true, all.gram);
  all.size = g.M;
  for (int64_t i = 0; i < g.rows; ++i) g.A.get()[i * all.ld + g.M] = root[i];
  std::fill_n(g.R.reserve(g.rows * C), g.rows * C, Lanes<Real>{});
  g.scores.shape(g.rows, C, lanes), g.exact.shape(g.rows, C, lanes);
  g.pull.reserve(all.ld * C * lanes);
  g.sparse = LaneMask<Real>{};
  for (int64_t t = 0; t < lanes; ++t) g.sparse[t] = g.task[t]->sparse ? -1 : 0;
  load_limits(g);
}

// Of a sample's scores u = S + bias, the means, and for the multinomial what its log-sum-exp is.
template <typename Sum, typename Real>
inline void load_means(const LanePart<Sum, Real>& part, LaneScores<Sum>& m) {
  using Vector = Lanes<Sum>;
  const int64_t C = part.g.C;
  for (int64_t i = 0; i < part.g.n; ++i) {
    if (part.g.loss == kLogistic) {
      for (int64_t c = 0; c < C; ++c) {
        const int64_t k = i * C + c;
        const Vector mean = 1 / (1 + exp_of<Vector>(-part.at(m.S, k) - part.at(m.bias, c)));
        part.at(m.P, k) = part.of(part.g.finite, c) > 0 ? mean : part.of(part.g.y, k);
      }
      continue;
    }
    Vector top = part.at(m.S, i * C) + part.at(m.bias, 0), sum{};
    for (int64_t c = 1; c < C; ++c) {
      const Vector u = part.at(m.S, i * C + c) + part.at(m.bias, c);
      top = u > top ? u : top;
    }
    for (int64_t c = 0; c < C; ++c) {
      const Vector u = part.at(m.S, i * C + c) + part.at(m.bias, c);
      sum += part.at(m.P, i * C + c) = part.of(part.g.finite, c) * exp_of<Vector>(u - top);
    }
    const Vector share = 1 / sum;
    for (int64_t c = 0; c < C; ++c) part.at(m.P, i * C + c) *= share;
    part.at(m.top, i) = top, part.at(m.sum, i) = sum;
  }
}

// Newton's system of the bias, as `bias_system` has it.
template <typename Sum>
struct LaneBias {
  using Vector = Lanes<Sum>;
  Vector H[kLaneOutputs][kLaneOutputs], gradient[kLaneOutputs], step[kLaneOutputs];

  // step = H^-1 gradient; returns the decrement.
  Vector solve(int64_t C) {
    Vector decrement{};
    for (int64_t a = 0; a < C; ++a) {
      step[a] = gradient[a];
      for (int64_t b = 0; b <= a; ++b) {
        for (int64_t q = 0; q < b; ++q) H[a][b] -= H[a][q] * H[b][q];
        if (b < a) H[a][b] *= H[b][b];
      }
      take_root(H[a][a]);
      H[a][a] = 1 / H[a][a];
      for (int64_t b = 0; b < a; ++b) step[a] -= H[a][b] * step[b];
      step[a] *= H[a][a];
      decrement += step[a] * step[a];
    }
    for (int64_t a = C - 1; a >= 0; --a) {
      for (int64_t b = a + 1; b < C; ++b) step[a] -= H[b][a] * step[b];
      step[a] *= H[a][a];
    }
    return decrement;
  }
};

template <typename Sum, typename Real>
inline void load_bias_system(const LanePart<Sum, Real>& part, const LaneScores<Sum>& m,
                             LaneBias<Sum>& system) {
  using Vector = Lanes<Sum>;
  const int64_t C = part.g.C;
  const bool multinomial = part.g.loss == kMultinomial;
  system = {};
  for (int64_t i = 0; i < part.g.n; ++i) {
    const Vector p = part.weight(i);
    for (int64_t a = 0; a < C; ++a) {
      const Vector P = part.at(m.P, i * C + a), weighted = p * P;
      system.gradient[a] += weighted - p * part.of(part.g.y, i * C + a);
      system.H[a][a] += weighted;
      for (int64_t b = multinomial ? 0 : a; b <= a; ++b)
        system.H[a][b] -= weighted * part.at(m.P, i * C + b);
    }
  }
  for (int64_t a = 0; a < C; ++a) {
    Vector& own = system.H[a][a];
    own = own < Sum(kStill) ? own + 1 : own;
    for (int64_t b = 0; b <= a && multinomial; ++b) system.H[a][b] += 1;
  }
}

// The best bias of the lanes that move, from m.bias, and P there, by damped Newton steps: along one
// whose entries differ by r at most the Hessian changes by less than e^r, so that log(1 + r) / r of
// it descends (Sun and Tran-Dinh 2019, Generalized self-concordant functions).
template <typename Sum, typename Real>
inline void fit_bias(const LanePart<Sum, Real>& part, LaneMask<Sum> moves, LaneScores<Sum>& m) {
  using Vector = Lanes<Sum>;
  const int64_t C = part.g.C;
  const Vector enough = load_vector<Sum>(part.g.enough + part.from);
  LaneBias<Sum> system;
  load_means(part, m);
  for (int step = 0; part.g.fit_intercept && step < kBiasSteps; ++step) {
    load_bias_system(part, m, system);
    const Vector decrement = system.solve(C);
    moves &= decrement > enough;
    if (!any_lane(moves)) return;
    Vector size{};
    for (int64_t c = 0; c < C; ++c) {
      Vector entry = system.step[c];
      absolute(entry);
      size = entry > size ? entry : size;
    }
    const auto certain = size < Sum(kCertainStep);
    const Vector r = 2 * size, length = certain ? Vector{} + 1 : log_of<Vector>(1 + r) / r;
    for (int64_t c = 0; c < C; ++c) {
      const Vector b = part.at(m.bias, c);
      part.at(m.bias, c) = moves ? b - length * system.step[c] : b;
    }
    load_means(part, m);
    moves &= ~(certain & (3 * size * size * decrement < enough));
  }
}

// Everything at the weights, in `Sum`, and pull = A'R of the features and the bias; the bias of
// lanes that do not move stays.
template <typename Sum, typename Real>
inline void evaluate(const LaneMask<Real>& moves, CurvedLanes<Real>& g, LaneScores<Sum>& m,
                     Sum* pull) {
  const int64_t C = g.C, ld = g.all.ld;
  const Lanes<Real>* A = g.A.get();
  multiply_rows<Real>(A, ld, 1, g.rows, g.moved ? g.M : 0, g.all.W.get(), C, m.S.get());
  for_each_part<Sum>(g, [&](const LanePart<Sum, Real>& part) {
    for (int64_t i = 0; i < g.n; ++i)
      for (int64_t c = 0; c < C; ++c) part.at(m.S, i * C + c) *= part.of(g.inverse, i);
    fit_bias(part, part.mask(moves), m);
    for (int64_t i = 0; i < g.n; ++i)
      for (int64_t c = 0; c < C; ++c) {
        const int64_t k = i * C + c;
        const Lanes<Sum> R = part.of(g.root, i) * (part.of(g.y, k) - part.at(m.P, k));
        Real* to = g.R.values() + k * part.kLanes + part.from;
        for (int64_t t = 0; t < Simd<Sum>::kLanes; ++t) to[t] = static_cast<Real>(R[t]);
      }
  });
  multiply_rows<Real>(A, 1, ld, ld, g.n, g.R.get(), C, pull);
}

// log(1 + e^u)
template <typename Vector>
inline Vector softplus(const Vector& u) {
  Vector size = u;
  absolute(size);
  return (u < 0 ? Vector{} : u) + log1p_of<Vector>(exp_of<Vector>(-size));
}

// The divergence of q = (1 - s) y + s P from the scores, as `divergence` has it.
template <typename Sum, typename Real>
inline Lanes<Sum> divergence(const LanePart<Sum, Real>& part, const LaneScores<Sum>& m,
                             const Lanes<Sum>& s) {
  using Vector = Lanes<Sum>;
  const int64_t C = part.g.C;
  const bool multinomial = part.g.loss == kMultinomial;
  Vector total{};
  for (int64_t i = 0; i < part.g.n; ++i) {
    const Vector log_sum =
        multinomial ? part.at(m.top, i) + log_of<Vector>(part.at(m.sum, i)) : Vector{};
    Vector sum{};
    for (int64_t c = 0; c < C; ++c) {
      const int64_t k = i * C + c;
      const Vector u = part.at(m.S, k) + part.at(m.bias, c), P = part.at(m.P, k);
      const Vector q = (1 - s) * part.of(part.g.y, k) + s * P, rest = 1 - q;
      const Vector own =
          multinomial ? q * (log_of<Vector>(q) - (u - log_sum)) + P - q
                      : q * (log_of<Vector>(q) - u) + rest * log_of<Vector>(rest) + softplus(u);
      sum += part.of(part.g.finite, c) > 0 ? own : Vector{};
    }
    total += part.weight(i) * sum;
  }
  return s == 1 ? Vector{} : total;
}

// The gaps of the weights, relative to the objective at zero weights, where `m` and `pull` were
// made at them.
template <typename Sum, typename Real>
inline void relative_gap(const CurvedLanes<Real>& g, const LaneScores<Sum>& m, const Sum* pull,
                         double* gap) {
  constexpr int64_t lanes = CurvedLanes<Real>::kLanes, wide_lanes = Simd<double>::kLanes;
  double s[lanes];
  for (int64_t from = 0; from < lanes; from += wide_lanes) {
    const Wide largest = largest_dual_norm(g.all, pull, from), share = 1.0 / largest;
    Wide value = penalty_of(g.all, from) + conjugate_of(g.all, pull, largest, from), fitted{};
    for (int64_t k = 0; k < g.M * g.C; ++k)
      fitted += wide(pull + k * lanes, from) * wide(g.all.W.values() + k * lanes, from);
    lanes_at(s + from) = share, lanes_at(gap + from) = value - share * fitted;
  }
  for_each_part<Sum>(g, [&](const LanePart<Sum, Real>& part) {
    const Lanes<Sum> loss = divergence(part, m, load_vector<Sum>(s + part.from));
    for (int64_t t = 0; t < Simd<Sum>::kLanes; ++t) {
      double& own = gap[part.from + t];
      own = at_least_zero(own + loss[t]) / g.zero[part.from + t];
    }
  });
}

// The loss at the scores, plus the penalty of the weights, up to a constant.
template <typename Real>
inline void objective(const CurvedLanes<Real>& g, const LaneScores<Real>& m, double* value) {
  using Vector = Lanes<Real>;
  const LanePart<Real, Real> part{g, 0};
  Vector loss{};
  for (int64_t i = 0; i < g.n; ++i) {
    Vector sum{};
    if (g.loss == kMultinomial) sum = part.at(m.top, i) + log_of<Vector>(part.at(m.sum, i));
    for (int64_t c = 0; c < g.C; ++c) {
      const Vector u = part.at(m.S, i * g.C + c) + part.at(m.bias, c);
      if (g.loss == kLogistic) sum += softplus(u);
      sum -= part.of(g.y, i * g.C + c) * u;
    }
    loss += part.weight(i) * sum;
  }
  for (int64_t from = 0; from < part.kLanes; from += Simd<double>::kLanes)
    lanes_at(value + from) = penalty_of(g.all, from);
  for (int64_t t = 0; t < part.kLanes; ++t) value[t] += loss[t];
}

// The objective at zero weights and its bias there, from where the tasks' own start.
template <typename Real>
inline void evaluate_zero(CurvedLanes<Real>& g) {
  constexpr int64_t lanes = CurvedLanes<Real>::kLanes;
  std::fill_n(g.enough, lanes, small_decrement<double>());
  std::fill_n(g.exact.S.get(), g.rows * g.C * lanes, 0.0);
  for_each_part<double>(g, [&](const LanePart<double, Real>& part) {
    fit_bias(part, LaneMask<double>{} - 1, g.exact);
    lanes_at(g.zero + part.from) = divergence(part, g.exact, Wide{});
  });
  for (int64_t i = 0; i < g.C * lanes; ++i)
    g.scores.bias.get()[i] = static_cast<Real>(g.exact.bias.get()[i]);
}

SPARSEDIS_END
