// From products of q and k to scores.
#pragma once

namespace fa3 {

struct ScaleParams {
    float scale_log2;     // softmax_scale * log2(e); with softcap: softcap * log2(e)
    float softcap_scale;  // softmax_scale / softcap; 0: no softcap
};

}  // namespace fa3
